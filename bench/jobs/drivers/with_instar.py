"""instar: a whole `instar run` with one handler that runs callables in threads, as its documentation has it."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

from contract import CONCURRENCY, HOME, STORE, Driver, main

from instar.jobs import JobStore, Submission

_CONFIG = """\
[app]
name = "main"
target = "with_instar:application"
interface = "wsgi"
chdir = "{folder}"
[web]
bind = ["unix:{home}/web.sock"]
workers = 1
[handlers.job-handlers]
count = 1
[jobs]
pool = "job-handlers"
store = "{store}"
folder = "{home}/jobs"
default_destination = "thread"
[jobs.runners.thread]
workers = {workers}
[jobs.destinations.thread]
"""


class Instar(Driver):
    async def prepare(self) -> None:
        JobStore.open(STORE).close()

    async def open(self) -> None:
        self.store = JobStore.open(STORE)

    async def close(self) -> None:
        self.store.close()

    def _job(self, number: int, sent: int = 0) -> Submission:
        return Submission(target="contract:noop", args=(number, sent), destination="thread")

    async def one(self, number: int, sent: int = 0) -> None:
        self.store.submit(self._job(number, sent))

    async def many(self, numbers: list[int]) -> None:
        self.store.submit_many(map(self._job, numbers))

    async def ended(self) -> int:
        return self.store.stats().states.get("ok", 0)

    def work(self) -> None:
        path = HOME / "instar.toml"
        here = Path(__file__).parent
        path.write_text(_CONFIG.format(folder=here, home=HOME, store=STORE, workers=CONCURRENCY))
        program = str(Path(sys.executable).with_name("instar"))
        os.environ["INSTAR_STATE_DIR"] = str(HOME / "state")
        os.execv(program, [program, "run", "-c", str(path)])


def application(environ: Any, start_response: Any) -> list[bytes]:
    """Nothing asks it."""
    start_response("204 No Content", [])
    return []


if __name__ == "__main__":
    main(Instar())
