"""pgqueuer: asyncpg (its documentation's choice), durable tables, batches of the concurrency (its default is 10)."""

from __future__ import annotations

import asyncio
import json
import signal

import asyncpg
import pgqueuer
from contract import CONCURRENCY, STORE, Driver, main, noop
from pgqueuer.db import AsyncpgDriver
from pgqueuer.models import Job
from pgqueuer.queries import Queries


def _payload(number: int, sent: int = 0) -> bytes:
    return json.dumps([number, sent]).encode()


class PgQueuer(Driver):
    async def prepare(self) -> None:
        await self.open()
        await self.queries.install()
        await self.close()

    async def open(self) -> None:
        self.connection = await asyncpg.connect(STORE)
        self.queries = Queries(AsyncpgDriver(self.connection))

    async def close(self) -> None:
        await self.connection.close()

    async def one(self, number: int, sent: int = 0) -> None:
        await self.queries.enqueue("noop", _payload(number, sent))

    async def many(self, numbers: list[int]) -> None:
        size = len(numbers)
        await self.queries.enqueue(["noop"] * size, [_payload(number) for number in numbers], [0] * size)

    async def ended(self) -> int:
        return int(await self.connection.fetchval("SELECT count(*) FROM pgqueuer_log WHERE status = 'successful'"))

    def work(self) -> None:
        asyncio.run(self._work())

    async def _work(self) -> None:
        connection = await asyncpg.connect(STORE)
        queue = pgqueuer.PgQueuer(AsyncpgDriver(connection))

        @queue.entrypoint("noop")
        async def _noop(job: Job) -> None:
            noop(*json.loads(job.payload or b"[]"))

        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, queue.shutdown.set)
        await queue.run(batch_size=CONCURRENCY)


if __name__ == "__main__":
    main(PgQueuer())
