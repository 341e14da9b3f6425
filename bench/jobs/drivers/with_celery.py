"""Celery with Redis as broker and for results: processes, late acknowledgement, prefetching as for short tasks.

Late acknowledgement, as otherwise a task that a crash interrupts is forgotten; it costs nothing to speak of.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import celery
from contract import CONCURRENCY, STORE, Driver, main
from contract import noop as work_of_all

app = celery.Celery("with_celery", broker=STORE, backend=STORE)
app.conf.update(
    task_acks_late=True,
    # docs.celeryq.dev, "Optimizing": 50 to 150 for many short tasks.
    worker_prefetch_multiplier=64,
    broker_connection_retry_on_startup=True,
    worker_hijack_root_logger=False,
)


@app.task(name="noop")
def noop(number: int, sent: int) -> None:
    """Run in one of the worker's processes."""
    work_of_all(number, sent)


class Celery(Driver):
    async def prepare(self) -> None:
        pass

    async def one(self, number: int, sent: int = 0) -> None:
        noop.delay(number, sent)

    async def ended(self) -> int:
        return sum(1 for _ in app.backend.client.scan_iter("celery-task-meta-*", count=1000))

    def work(self) -> None:
        os.environ["C_FORCE_ROOT"] = "1"
        argv = ["-m", "celery", "-A", "with_celery", "worker", "-P", "prefork", "-c", str(CONCURRENCY), "-l", "WARNING"]
        os.chdir(Path(__file__).parent)
        os.execv(sys.executable, [sys.executable, *argv])


if __name__ == "__main__":
    main(Celery())
