"""procrastinate: an asynchronous task, LISTEN on, finished jobs kept (all defaults but the concurrency)."""

from __future__ import annotations

import asyncio

import procrastinate
from contract import CONCURRENCY, STORE, Driver, main
from contract import noop as work_of_all

app = procrastinate.App(connector=procrastinate.PsycopgConnector(conninfo=STORE, min_size=1, max_size=10))


@app.task(name="noop")
async def noop(number: int, sent: int) -> None:
    """Run in the worker's event loop, which costs it less than a thread for each."""
    work_of_all(number, sent)


class Procrastinate(Driver):
    async def prepare(self) -> None:
        async with app.open_async():
            await app.schema_manager.apply_schema_async()

    async def open(self) -> None:
        await app.open_async()

    async def close(self) -> None:
        await app.close_async()

    async def one(self, number: int, sent: int = 0) -> None:
        await noop.defer_async(number=number, sent=sent)

    async def many(self, numbers: list[int]) -> None:
        await noop.batch_defer_async(*({"number": number, "sent": 0} for number in numbers))

    async def ended(self) -> int:
        jobs = await app.connector.execute_query_one_async(
            "SELECT count(*) AS count FROM procrastinate_jobs WHERE status = 'succeeded'"
        )
        return int(jobs["count"])

    def work(self) -> None:
        asyncio.run(self._work())

    async def _work(self) -> None:
        async with app.open_async():
            await app.run_worker_async(concurrency=CONCURRENCY)


if __name__ == "__main__":
    main(Procrastinate())
