"""huey: SQLite or Redis, threads, results kept also of functions that return nothing; all else as it comes."""

from __future__ import annotations

import logging

from contract import CONCURRENCY, STORE, Driver, main
from contract import noop as work_of_all
from huey import RedisHuey, SqliteHuey

if STORE.startswith("redis:"):
    huey = RedisHuey("bench", url=STORE, store_none=True)
else:
    # Its default is SQLite's, which is the same; said so that nobody has to know.
    huey = SqliteHuey("bench", filename=STORE, fsync=True, store_none=True)


@huey.task()
def noop(number: int, sent: int) -> None:
    """Run in one of the consumer's threads."""
    work_of_all(number, sent)


class Huey(Driver):
    async def prepare(self) -> None:
        huey.storage.queue_size()

    async def one(self, number: int, sent: int = 0) -> None:
        noop(number, sent)

    async def ended(self) -> int:
        return huey.result_count()

    def work(self) -> None:
        logging.getLogger("huey").setLevel(logging.WARNING)
        huey.create_consumer(workers=CONCURRENCY, worker_type="thread").run()


if __name__ == "__main__":
    main(Huey())
