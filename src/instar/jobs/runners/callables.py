"""Callables in threads of the handler: quick to start, and gone with it."""

from __future__ import annotations

import collections
import contextlib
import logging
import queue
import threading
import time
from typing import Any, Final

from instar.jobs.current import CurrentJob
from instar.jobs.runners.base import Assignment, Notice, Phase, RefusedError, Runner, Setup, Sink
from instar.jobs.runners.calling import Done, perform
from instar.jobs.runners.processes import ProcessRunner
from instar.jobs.runners.watch import Watcher

__all__ = ["ProcessRunner", "ThreadRunner"]

logger = logging.getLogger("instar.jobs")

#: Threads where the setup names no number.
_WORKERS: Final = 8
#: Seconds after which calls that wait for the threads that are awake get others. Below that it costs more to wake one.
_SOON: Final = 0.001


class _Call:
    """One callable, waiting or running."""

    def __init__(self, assignment: Assignment) -> None:
        self.assignment = assignment
        self.progress: Any = None
        self.timed_out = False
        self.job = CurrentJob(assignment.job_id, assignment.attempt, assignment.key, self._keep)

    def _keep(self, value: Any) -> None:
        self.progress = value


class ThreadRunner(Runner):
    """Runs callables in daemon threads.

    A thread can't be killed: a callable that is to end (cancel, time limit) sees `current_job().cancelled`; a coroutine
    is cancelled. What still runs when the handler ends, ends with it.
    """

    durable = False
    prompt = True
    runs_commands = False
    runs_callables = True

    def __init__(self, setup: Setup) -> None:
        super().__init__(setup)
        self._workers = setup.workers or _WORKERS
        self._sink: Sink = lambda _: None
        self._calls: dict[str, _Call] = {}
        self._changed = threading.Condition(threading.Lock())
        self._waiting: collections.deque[_Call] = collections.deque()
        self._threads = 0
        #: Threads that sleep; each thing in the bell wakes one.
        self._idle = 0
        self._bell: queue.SimpleQueue[None] = queue.SimpleQueue()
        self._help_comes = False
        self._leaving = False
        self._closed = False
        self._watcher = Watcher(f"instar-{setup.name}")

    def open(self, sink: Sink) -> None:
        """Ready at once; threads come with the work."""
        self._sink = sink
        self._watcher.start()

    def start(self, assignment: Assignment) -> Notice:
        """Hand it to a thread."""
        if not assignment.target:
            raise RefusedError(f"cannot run job {assignment.job_id} in a thread: it has no callable")
        call = _Call(assignment)
        with self._changed:
            if self._leaving:
                return Notice(assignment.key, Phase.NEVER)
            if assignment.key not in self._calls:
                self._calls[assignment.key] = call
                self._waiting.append(call)
                # The others are for whoever is awake, if that is soon done; see `_next`.
                if len(self._waiting) == 1:
                    self._wake(1)
        return Notice(assignment.key, Phase.RUNNING)

    def recover(self, assignment: Assignment) -> Notice:
        """What this process doesn't run has ended with the process that did."""
        with self._changed:
            if assignment.key in self._calls:
                return Notice(assignment.key, Phase.RUNNING)
        return Notice(assignment.key, Phase.LOST, error="the handler that ran it has ended")

    def cancel(self, assignment: Assignment, *, now: bool = False) -> None:
        """Tell the callable; one that hasn't begun never will."""
        with self._changed:
            call = self._calls.get(assignment.key)
        if call:
            call.job.cancel()

    def progress(self, assignment: Assignment) -> Any:
        """What it said last."""
        with self._changed:
            call = self._calls.get(assignment.key)
        return call.progress if call else None

    def release(self, timeout: float) -> list[str]:
        """Let running callables finish; those that wait for a thread never begin."""
        with self._changed:
            self._leaving = True
            calls = list(self._calls.values())
        for call in calls:
            call.job.releasing.set()
        with self._changed:
            self._changed.wait_for(lambda: not self._calls, timeout)
            return list(self._calls)

    def close(self) -> None:
        """Let idle threads end."""
        with self._changed:
            self._leaving = self._closed = True
            self._wake(self._idle)
        with contextlib.suppress(RuntimeError):
            self._watcher.close()

    def _wake(self, count: int) -> None:
        """Up to so many threads that sleep, or new ones. The lock is held."""
        for _ in range(count):
            if self._idle:
                self._idle -= 1
                self._bell.put(None)
            elif self._threads < self._workers and not self._closed:
                self._threads += 1
                threading.Thread(target=self._work, name=f"instar-{self.setup.name}", daemon=True).start()

    def _ask_for_help(self) -> None:
        """The lock is held: after `close` there is no watcher any more."""
        if not (self._help_comes or self._leaving) and (self._idle or self._threads < self._workers):
            self._help_comes = True
            self._watcher.later(_SOON, self._help)

    def _help(self) -> None:
        """In the watcher's thread: what still waits is not for those who are awake."""
        with self._changed:
            self._help_comes = False
            self._wake(len(self._waiting))

    def _work(self) -> None:
        while call := self._next():
            self._end(call, self._run(call))

    def _next(self) -> _Call | None:
        """What is to be done; None: nothing any more."""
        while True:
            with self._changed:
                call = self._waiting.popleft() if self._waiting else None
                if call is None and self._closed:
                    return None
                self._idle += call is None
                if self._waiting:
                    self._ask_for_help()
            if call:
                return call
            self._bell.get()

    def _run(self, call: _Call) -> Notice:
        given = call.assignment
        if self._leaving or not call.job.wanted:
            return Notice(given.key, Phase.NEVER)
        if given.timeout:
            self._watcher.later(given.timeout, lambda: self._time_out(call))
        began = time.time()
        done = perform(call.job, given.target, given.args, given.kwargs)
        if done.trace:
            logger.error("job %s failed\n%s", given.job_id, done.trace, extra={"action": "job_failed"})
        return Notice(
            given.key,
            _phase(done),
            timed_out=call.timed_out,
            started_at=began,
            finished_at=time.time(),
            result=done.result,
            progress=call.progress,
            error=done.error,
        )

    def _end(self, call: _Call, notice: Notice) -> None:
        # First the notice: whoever waits for the last call to be gone may end the process then.
        try:
            self._sink(notice)
        except Exception:
            logger.exception("cannot report the end of job %s", call.assignment.job_id)
        with self._changed:
            self._calls.pop(call.assignment.key, None)
            if self._leaving:
                self._changed.notify_all()

    def _time_out(self, call: _Call) -> None:
        with self._changed:
            if self._calls.get(call.assignment.key) is not call:
                return
            call.timed_out = True
        call.job.cancel()


def _phase(done: Done) -> Phase:
    return Phase.RETURNED if done.handed_back else Phase.ENDED
