"""Callables in a pool of processes below the handler: no interpreter to start for each, and they can be killed."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
import logging
import os
import queue
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from instar.jobs import callee
from instar.jobs.folder import Exit, Ticket
from instar.jobs.runners import traces
from instar.jobs.runners.base import Assignment, Notice, Phase, RefusedError, Setup
from instar.jobs.runners.environment import job_environment
from instar.jobs.runners.folders import FolderRunner

logger = logging.getLogger("instar.jobs")

#: A killed process that isn't gone after so long is left to the kernel (seconds).
_PATIENCE: Final = 10.0


class ProcessRunner(FolderRunner):
    """Runs callables in processes that are kept for the next one. They end with the handler."""

    durable = False
    runs_commands = False
    runs_callables = True

    def __init__(self, setup: Setup) -> None:
        super().__init__(setup)
        self._size = setup.workers or os.cpu_count() or 1
        self._active: dict[str, Assignment] = {}
        self._timed_out: set[str] = set()
        self._changed = threading.Condition()
        self._waiting: queue.SimpleQueue[Assignment | None] = queue.SimpleQueue()
        self._workers: list[_Worker] = []
        self._idle = 0
        self._leaving = False
        self._threads: list[threading.Thread] = []

    def start(self, assignment: Assignment) -> Notice:
        """Hand it to a process, as soon as one is free."""
        if not assignment.target:
            raise RefusedError(f"cannot run job {assignment.job_id} in a process: it has no callable")
        folder = self.write_order(assignment, self._order(assignment))
        with self._changed:
            if self._leaving:
                folder.void()
                return Notice(assignment.key, Phase.NEVER)
            if assignment.key not in self._active:
                self._active[assignment.key] = assignment
                self._staff()
                self._waiting.put(assignment)
        return Notice(assignment.key, Phase.RUNNING, f"pool of {os.getpid()}")

    def recover(self, assignment: Assignment) -> Notice:
        """What this process hasn't started ends with the one that did, if it hasn't yet."""
        with self._changed:
            if assignment.key in self._active:
                return Notice(assignment.key, Phase.RUNNING, f"pool of {os.getpid()}")
        return super().recover(assignment)

    def ask_to_end(self, assignment: Assignment, ticket: Ticket, now: bool) -> None:
        """SIGTERM, later SIGKILL, to the process that has it, and not to what that does next."""
        worker = next((item for item in self._workers if item.key == assignment.key), None)
        if worker is None:
            # Of another handler, which is gone: its processes are about to end.
            traces.signal_process(ticket.pid, ticket.start, signal.SIGKILL)
            return
        worker.signal(assignment.key, signal.SIGKILL if now else signal.SIGTERM)
        if not now:
            kill = functools.partial(worker.signal, assignment.key, signal.SIGKILL)
            self.watcher.later(assignment.kill_timeout, kill)

    def release(self, timeout: float) -> list[str]:
        """Let running callables finish; those that wait for a process never begin."""
        with self._changed:
            self._leaving = True
            for assignment in self._active.values():
                with contextlib.suppress(OSError):
                    # Nobody begins it any more, unless somebody has.
                    self.folder(assignment).void()
            self._changed.wait_for(lambda: not self._active, timeout)
            return list(self._active)

    def close(self) -> None:
        """End the processes."""
        with self._changed:
            self._leaving = True
            for _ in self._threads:
                self._waiting.put(None)
        for worker in self._workers:
            worker.kill()
        for thread in self._threads:
            thread.join(_PATIENCE)
        super().close()

    def _order(self, assignment: Assignment) -> dict[str, Any]:
        return {
            "target": assignment.target,
            "args": list(assignment.args),
            "kwargs": dict(assignment.kwargs),
            "env": job_environment(assignment, self.folder(assignment)),
            "cwd": assignment.cwd or str(Path.cwd()),
            "path": sys.path,
        }

    def _staff(self) -> None:
        if self._idle < len(self._active) and len(self._threads) < self._size:
            worker = _Worker()
            self._workers.append(worker)
            thread = threading.Thread(target=self._serve, args=(worker,), name=f"instar-{self.setup.name}", daemon=True)
            self._threads.append(thread)
            thread.start()

    def _serve(self, worker: _Worker) -> None:
        while True:
            with self._changed:
                self._idle += 1
            assignment = self._waiting.get()
            with self._changed:
                self._idle -= 1
            if assignment is None:
                worker.kill()
                return
            try:
                self._end(assignment, self._run(worker, assignment))
            except Exception as error:
                logger.exception("cannot run job %s", assignment.job_id)
                self._end(assignment, Notice(assignment.key, Phase.LOST, error=f"{type(error).__name__}: {error}"))

    def _run(self, worker: _Worker, assignment: Assignment) -> Notice | None:
        folder, began = self.folder(assignment), time.time()
        answer, status = worker.work(assignment.key, folder.path, functools.partial(self._begun, assignment))
        if answer.get("handed_back"):
            return Notice(assignment.key, Phase.RETURNED, started_at=began, finished_at=time.time())
        problem = str(answer.get("error", "" if status is None else "its process ended in the middle"))
        if problem and folder.exit() is None:
            if folder.void():
                return Notice(assignment.key, Phase.ENDED, error=problem)
            # Nobody but us knows how it ended.
            code, sig = (status, None) if status is None or status >= 0 else (None, -status)
            folder.write_exit(Exit(code, sig, started_at=began, finished_at=time.time(), error=problem))
        notice = traces.look(assignment.key, folder)
        if notice is None:
            return Notice(assignment.key, Phase.LOST, error="its process ended without a trace")
        if notice.phase.final:
            return dataclasses.replace(notice, timed_out=assignment.key in self._timed_out)
        # Another manager was faster.
        if ticket := folder.ticket():
            self.watch(assignment, ticket)
        return None

    def _end(self, assignment: Assignment, notice: Notice | None) -> None:
        try:
            if notice is not None:
                self.sink(notice)
        except Exception:
            logger.exception("cannot report the end of job %s", assignment.job_id)
        with self._changed:
            self._active.pop(assignment.key, None)
            self._timed_out.discard(assignment.key)
            self._changed.notify_all()

    def _begun(self, assignment: Assignment) -> None:
        if assignment.timeout:
            self.watcher.later(assignment.timeout, functools.partial(self._time_out, assignment))

    def _time_out(self, assignment: Assignment) -> None:
        with self._changed:
            if assignment.key not in self._active:
                return
            self._timed_out.add(assignment.key)
        self.cancel(assignment)


class _Worker:
    """One process of the pool and the socket to it, both used by one thread; signals come from others."""

    def __init__(self) -> None:
        #: Of the attempt that it has.
        self.key = ""
        self._process: subprocess.Popen[bytes] | None = None
        self._sock: socket.socket | None = None
        self._guard = threading.Lock()

    def work(self, key: str, folder: Path, begun: Callable[[], None]) -> tuple[dict[str, Any], int | None]:
        """Have it work on a folder; its answer, and its exit status if it ended instead (negative: the signal).

        `begun` is called when it has taken the ticket: until then it may have been importing.
        """
        sock = self._ensure()
        with self._guard:
            self.key = key
        answer: Any = None
        try:
            sock.send(json.dumps({"folder": str(folder)}).encode())
            while (answer := json.loads(sock.recv(callee.MOST) or "null")) == {"begun": True}:
                begun()
        except (OSError, ValueError):
            pass
        finally:
            with self._guard:
                # From here on, no signal reaches what comes next.
                self.key = ""
        if isinstance(answer, dict):
            return answer, None
        return {}, self._finish()

    def signal(self, key: str, sig: signal.Signals) -> None:
        """Reach it while it works on this attempt: SIGTERM its process, SIGKILL its whole group."""
        with self._guard:
            if self.key != key or self._process is None:
                return
            with contextlib.suppress(ProcessLookupError):
                if sig is signal.SIGKILL:
                    os.killpg(self._process.pid, sig)
                else:
                    self._process.send_signal(sig)

    def kill(self) -> None:
        """End it, whatever it does."""
        with self._guard:
            if self._process is not None and self._process.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(self._process.pid, signal.SIGKILL)

    def _ensure(self) -> socket.socket:
        if self._sock is not None and self._process is not None and self._process.poll() is None:
            return self._sock
        self._finish()
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            process = subprocess.Popen(
                callee.command("pool", str(theirs.fileno())),
                stdin=subprocess.DEVNULL,
                pass_fds=(theirs.fileno(),),
                start_new_session=True,
            )
        with self._guard:
            self._sock, self._process = ours, process
        return ours

    def _finish(self) -> int | None:
        process, sock = self._process, self._sock
        status = None
        if sock is not None:
            sock.close()
        if process is not None:
            # The group first, while its number is certain to be ours: what it has started ends with it.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            status = process.wait()
        with self._guard:
            self._sock = self._process = None
        return status
