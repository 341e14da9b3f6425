"""A manager for tests: starts attempts, keeps the notices, and clears up."""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from instar.jobs.folder import Folder
from instar.jobs.runners.base import Assignment, Notice, Phase, Runner

#: What takes longer has failed (seconds).
LIMIT = 20.0
_numbers = itertools.count(1)


class Desk:
    def __init__(self, runner: Runner) -> None:
        self.runner = runner
        self.given: list[Assignment] = []
        self._notices: list[Notice] = []
        self._news = threading.Condition()
        self._closed = False
        runner.open(self._sink)

    def _sink(self, notice: Notice) -> None:
        with self._news:
            self._notices.append(notice)
            self._news.notify_all()

    def assign(self, *argv: str, **more: Any) -> Assignment:
        number = next(_numbers)
        values = {"key": f"t{os.getpid()}-{number}-a1", "job_id": number, "attempt": 1, "dispatched_at": time.time()}
        self.given.append(Assignment(**{**values, "argv": argv, **more}))
        return self.given[-1]

    def start(self, *argv: str, **more: Any) -> Assignment:
        assignment = self.assign(*argv, **more)
        notice = self.runner.start(assignment)
        assert notice.phase in (Phase.RUNNING, Phase.QUEUED, Phase.ENDED), notice
        return assignment

    def python(self, text: str, *args: str, **more: Any) -> Assignment:
        return self.start(sys.executable, "-I", "-S", "-c", text, *args, **more)

    def end(self, assignment: Assignment, limit: float = LIMIT) -> Notice:
        """The final notice."""

        def found() -> Notice | None:
            return next((n for n in self._notices if n.key == assignment.key and n.phase.final), None)

        with self._news:
            assert self._news.wait_for(lambda: found() is not None, limit), "no final notice"
            notice = found()
            assert notice is not None
            return notice

    def folder(self, assignment: Assignment) -> Folder:
        return Folder(self.runner.setup.folder / assignment.key)

    def clear(self) -> None:
        if not self._closed:
            for assignment in self.given:
                with contextlib.suppress(Exception):
                    self.runner.cancel(assignment, now=True)

    def left(self) -> dict[int, str]:
        """Processes that belong to an attempt and live on."""
        keys = [assignment.key for assignment in self.given]

        def found() -> dict[int, str]:
            return {pid: text for pid, text in marked() if any(key in text for key in keys)}

        deadline = time.monotonic() + LIMIT
        while found() and time.monotonic() < deadline:
            time.sleep(0.02)
        return found()

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            self.runner.close()


def marked() -> Iterator[tuple[int, str]]:
    """Every process that was started for an attempt, with the key of the latter."""
    for entry in os.listdir("/proc"):
        if entry.isdigit() and int(entry) != os.getpid():
            with contextlib.suppress(OSError):
                if Path(f"/proc/{entry}/stat").read_text().rpartition(")")[2].split()[0] in "ZX":
                    continue
                environment = Path(f"/proc/{entry}/environ").read_bytes().decode(errors="replace").split("\0")
                key = next((line for line in environment if line.startswith("INSTAR_JOB_KEY=")), None)
                if key:
                    yield int(entry), key


def wait_for(what: str, check: Callable[[], Any], limit: float = LIMIT) -> Any:
    end = time.monotonic() + limit
    while not (found := check()):
        assert time.monotonic() < end, f"not within {limit} s: {what}"
        time.sleep(0.005)
    return found


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def read_pid(path: Path) -> int:
    return int(wait_for(f"a pid in {path}", lambda: path.exists() and path.read_text().strip()))


def manager(body: Callable[[], None]) -> int:
    """A forked process that plays a manager; the caller reaps it."""
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            body()
            status = 0
        finally:
            os._exit(status)
    return pid


def kill(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
