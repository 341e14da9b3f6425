"""An interpreter of its own for callables: one call under a shim (`once`), or many after another (`pool`).

The order in the attempt's folder says what to call, and with which `sys.path`: that of the handler, so that the
release that was pinned there is imported.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any, Final

from instar.jobs.current import CurrentJob, file_report
from instar.jobs.folder import Exit, Folder
from instar.jobs.runners.calling import Cancelled, Done, perform

BOOTSTRAP: Final = Path(__file__).with_name("bootstrap.py")
#: Longest message between a pool and its worker (bytes).
MOST: Final = 4096


def command(mode: str, *args: str) -> list[str]:
    """What to execute for `once` or `pool`, under the interpreter of the caller."""
    # -P: the bootstrap's own folder is not for imports.
    return [sys.executable, "-P", str(BOOTSTRAP), "callee", mode, *args]


def main(argv: list[str]) -> int:
    """Be one or the other."""
    if argv[0] == "once":
        return _once(Folder(Path(os.environ["INSTAR_JOB_DIR"])))
    with socket.socket(fileno=int(argv[1])) as sock:
        _Worker(sock).run()
    return 0


def _once(folder: Folder) -> int:
    """The shim holds the ticket, keeps the time, and writes down the end."""
    order = folder.read_order()
    sys.path[:] = order["path"]
    job = _job(folder, os.environ)
    stop = _Stop()
    done = stop.guard(job, order)
    if done.error:
        print(done.trace or done.error, file=sys.stderr, flush=True)
        folder.error_file.write_text(done.error)
        return 1
    if done.result is not None:
        folder.result_file.write_text(json.dumps(done.result))
    return 0


class _Stop:
    """SIGTERM ends the call that runs: a coroutine is cancelled, other code gets an exception."""

    def __init__(self) -> None:
        self._job: CurrentJob | None = None
        signal.signal(signal.SIGTERM, self._on_signal)

    def guard(self, job: CurrentJob, order: dict[str, Any]) -> Done:
        """`perform` with that."""
        try:
            self._job = job
            return perform(job, order["target"], order["args"], order["kwargs"], process=True)
        except Cancelled:
            # It came right before or after the call.
            return Done(error="cancelled")
        finally:
            self._job = None

    def _on_signal(self, _number: int, _frame: FrameType | None) -> None:
        job = self._job
        if job is None:
            return
        in_loop = job.has_callbacks
        job.cancel()
        if not in_loop:
            raise Cancelled


class _Worker:
    """A process of a pool. It ends with the other end of its socket, at once and with all that it has started."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._stop = _Stop()
        threading.Thread(target=self._end_with_pool, name="instar-pool", daemon=True).start()

    def run(self) -> None:
        """One order after the other."""
        while data := self._sock.recv(MOST):
            folder = Folder(Path(json.loads(data)["folder"]))
            try:
                answer = self._work(folder)
            except Exception as error:
                traceback.print_exc()
                answer = {"error": f"{type(error).__name__}: {error}"}
            self._say(answer)

    def _say(self, answer: dict[str, Any]) -> None:
        self._sock.send(json.dumps(answer).encode()[:MOST])

    def _work(self, folder: Folder) -> dict[str, Any]:
        lock = folder.hold()
        if lock is None:
            return {"turned_away": True}
        try:
            order = folder.read_order()
            if not folder.take_ticket():
                return {"turned_away": True}
            self._say({"begun": True})
            began = time.time()
            sys.path[:] = order["path"]
            with _surroundings(folder, order) as environment:
                done = self._stop.guard(_job(folder, environment), order)
                if done.trace:
                    print(done.trace, file=sys.stderr)
            end = Exit(started_at=began, finished_at=time.time(), error=done.error, result=done.result)
            if not done.handed_back:
                folder.write_exit(end)
            return {"ended": True, "handed_back": done.handed_back}
        finally:
            os.close(lock)

    def _end_with_pool(self) -> None:
        poll = select.poll()
        poll.register(self._sock, select.POLLRDHUP)
        poll.poll()
        os.killpg(0, signal.SIGKILL)


@contextlib.contextmanager
def _surroundings(folder: Folder, order: dict[str, Any]) -> Iterator[dict[str, str]]:
    """Output, environment and working folder of one call."""
    saved, cwd = dict(os.environ), Path.cwd()
    outputs = [os.dup(1), os.dup(2)]
    try:
        for path, fd in ((folder.out, 1), (folder.err, 2)):
            file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
            os.dup2(file, fd)
            os.close(file)
        os.environ.clear()
        os.environ.update(order["env"])
        os.chdir(order["cwd"])
        yield order["env"]
    finally:
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError):
                stream.flush()
        for fd, copy in enumerate(outputs, 1):
            os.dup2(copy, fd)
            os.close(copy)
        os.environ.clear()
        os.environ.update(saved)
        os.chdir(cwd)


def _job(folder: Folder, environment: Any) -> CurrentJob:
    return CurrentJob(
        int(environment["INSTAR_JOB_ID"]),
        int(environment["INSTAR_JOB_ATTEMPT"]),
        environment["INSTAR_JOB_KEY"],
        file_report(folder.progress_file),
    )
