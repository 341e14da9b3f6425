"""The web workers of a generation: forked, replaced when they die, recycled without loss."""

from __future__ import annotations

import os
import signal
import time
from typing import Any

from instar import engines
from instar.runtime import channel, fleet
from instar.runtime.fleet import Seat, Worker
from instar.runtime.nursery import Child
from instar.runtime.parent import Parent, Phase
from instar.runtime.scoreboard import Column, Drain, State
from instar.runtime.worker import WorkerProcess
from instar.system import describe_status

#: Seconds between two looks at the workers' health.
CHECK_EVERY = 0.5


class Crew:
    """Owner of the seats. Rows of the scoreboard: a seat's index, or its index + the number of workers."""

    def __init__(self, parent: Parent) -> None:
        self._parent = parent
        self._seats = [Seat(index) for index in range(parent.spec.workers)]
        self._by_pid: dict[int, tuple[Seat, Worker]] = {}
        self._gate: tuple[int, int] | None = os.pipe2(os.O_CLOEXEC) if parent.spec.gated else None
        self._next_check = 0.0
        #: Whether new connections are left to others (shared sockets), or wait.
        self.quiet = False
        parent.nursery.in_child(self._shed)

    def start(self) -> None:
        """Fork every worker."""
        for seat in self._seats:
            seat.current = self._fork(seat)

    def commit(self) -> None:
        """End of file opens the gate of every worker, also of those forked later."""
        if self._gate and self._gate[1] >= 0:
            os.close(self._gate[1])
            self._gate = (self._gate[0], -1)

    def greet(self) -> None:
        """Tell a supervisor that has just connected who lives."""
        for seat, worker in self._by_pid.values():
            self._tell_forked(worker)
            if worker.ready:
                self._parent.link.send(channel.Ready(seat.index, worker.child.pid))

    def quiesce(self, on: bool) -> None:
        """Shared sockets: stop accepting; or accept again, through fresh workers."""
        self.quiet = on
        for seat in self._seats:
            if not on:
                self.recycle(seat.index, "it accepts again")
            elif seat.current:
                self._hint(seat.current, signal.SIGUSR2)

    def _hint(self, worker: Worker, sig: int) -> None:
        """A signal of ours; it means something else to the program that a worker has become."""
        if self._parent.spec.engine not in engines.BECOME_PROGRAMS:
            self._parent.nursery.signal(worker.child, sig)

    def recycle(self, index: int, reason: str) -> None:
        """Replace a worker without loss: its successor answers before it goes."""
        seat, parent = self._seats[index], self._parent
        if parent.phase is not Phase.SERVING or seat.arriving or seat.leaving or not seat.current:
            return
        if parent.system.monotonic() < seat.recycle_after:
            return
        parent.link.send(channel.Note("recycle_worker", f"recycling worker {index + 1}: {reason}"))
        seat.arriving = self._fork(seat)

    def stop(self, timeout: float) -> None:
        """Ask every worker to leave; SIGKILL after `timeout` seconds."""
        for _, worker in self._by_pid.values():
            if not worker.terminated:
                self._terminate(worker)
            worker.kill_at = self._parent.system.monotonic() + timeout

    def patience(self) -> float:
        """Seconds until `step` has something to do."""
        if any(worker.leaving or worker.terminated for _, worker in self._by_pid.values()):
            return 0.1
        now = self._parent.system.monotonic()
        due = [seat.respawn_at - now for seat in self._seats if seat.respawn_at is not None]
        return max(0.0, min([CHECK_EVERY, *due]))

    def step(self, now: float) -> None:
        """Do what is due."""
        serving = self._parent.phase is Phase.SERVING
        for seat in self._seats:
            if seat.respawn_at is not None and now >= seat.respawn_at and serving:
                seat.respawn_at = None
                seat.current = self._fork(seat)
            for worker in seat.workers():
                self._press(worker, now)
        if serving and now >= self._next_check:
            self._next_check = now + CHECK_EVERY
            for seat in self._seats:
                self._check(seat)

    def on_event(self, event: dict[str, Any]) -> None:
        """A worker said something."""
        seat, worker = self._by_pid.get(event["pid"], (None, None))
        if seat is None or worker is None:
            return
        if event["event"] == "ready":
            self._on_ready(seat, worker)
        elif self._parent.phase is Phase.BOOTING:
            error = f"worker {seat.index + 1} failed: {event['error']}"
            self._parent.fail_boot("worker", error, event.get("traceback", ""))

    # --- processes --------------------------------------------------------------------------------

    def _fork(self, seat: Seat) -> Worker | None:
        row = seat.free_row(self._parent.spec.workers)
        if row is None:
            return None
        self._parent.board.clear(row)
        child = self._parent.nursery.fork(lambda: self._serve(seat.index, row), self._on_exit)
        worker = Worker(seat.index, row, child)
        self._by_pid[child.pid] = (seat, worker)
        self._tell_forked(worker)
        return worker

    def _serve(self, index: int, row: int) -> int:
        """In the child."""
        gate = self._gate[0] if self._gate else None
        parent = self._parent
        process = WorkerProcess(parent.spec, parent.board, index, row, tell=parent.tell, gate_fd=gate)
        return process.run(parent.app)

    def _shed(self) -> None:
        if self._gate and self._gate[1] >= 0:
            os.close(self._gate[1])

    def _tell_forked(self, worker: Worker) -> None:
        child = worker.child
        message = channel.Forked(worker.index, worker.row, child.pid, child.start_time)
        self._parent.link.send(message, (child.pidfd,), keep=False)

    def _on_ready(self, seat: Seat, worker: Worker) -> None:
        worker.ready = True
        self._parent.link.send(channel.Ready(seat.index, worker.child.pid), keep=False)
        if seat.arriving is worker:
            seat.arriving, old = None, seat.current
            seat.current = worker
            if old is not None:
                self._send_away(seat, old)

    def _on_exit(self, child: Child, status: int) -> None:
        parent = self._parent
        seat, worker = self._by_pid.pop(child.pid)
        was_current, was_arriving = seat.current is worker, seat.arriving is worker
        seat.remove(worker)
        expected = worker.leaving or parent.phase is Phase.STOPPING
        reason = worker.reason or ("" if expected else f"worker {seat.index + 1} {describe_status(status)}")
        delay = -1.0
        if parent.phase is Phase.SERVING and (was_current or was_arriving):
            now = parent.system.monotonic()
            delay = seat.backoff.next_delay(now - child.forked_at if worker.ready else 0.0)
            if was_arriving:
                seat.recycle_after = now + max(delay, fleet.FIRST_DELAY)
            elif seat.arriving is not None:
                seat.current, seat.arriving = seat.arriving, None
                delay = -1.0
            else:
                seat.respawn_at = now + delay
        parent.link.send(channel.Exited(seat.index, child.pid, status, reason, delay, expected))
        if parent.phase is Phase.BOOTING:
            error = f"worker {seat.index + 1} {describe_status(status)} before the generation served"
            parent.fail_boot("worker", error)

    def _terminate(self, worker: Worker) -> None:
        """Ask a worker to leave. Both signals may be pending at once: Python runs the handler of the lower
        number (SIGUSR1, which holds the connections for the linger) first."""
        worker.terminated = True
        worker.kill_at = self._parent.system.monotonic() + self._parent.spec.stop_timeout
        self._hint(worker, signal.SIGUSR1)
        self._parent.nursery.signal(worker.child, engines.stop_signal(self._parent.spec.engine))

    # --- recycling --------------------------------------------------------------------------------

    def _check(self, seat: Seat) -> None:
        worker, now_ns = seat.current, time.monotonic_ns()
        board, spec = self._parent.board, self._parent.spec
        if worker is None or not worker.ready:
            return
        if reason := fleet.stuck(worker, board, spec, now_ns):
            worker.reason = f"worker {seat.index + 1} was killed: {reason}"
            self._parent.nursery.signal(worker.child, signal.SIGKILL)
        elif reason := fleet.overdue(worker, board, spec, now_ns):
            worker.reason = f"worker {seat.index + 1} was replaced: {reason}"
            self.recycle(seat.index, reason)
        elif reason := fleet.worn_out(worker, board, spec):
            self.recycle(seat.index, reason)

    def _send_away(self, seat: Seat, worker: Worker) -> None:
        """The replacement answers: the old process stops accepting, and leaves when its last client has."""
        now, spec, board = self._parent.system.monotonic(), self._parent.spec, self._parent.board
        seat.leaving, worker.leaving = worker, True
        worker.surveys_before = board.get(worker.row, Column.SURVEYS)
        board.set(worker.row, Column.DRAIN, Drain.CLOSE)
        worker.end_streams_at = now + spec.stream_grace
        worker.term_at = now + (spec.stop_timeout if worker.reason else spec.drain_timeout)
        self._hint(worker, signal.SIGUSR2)

    def _press(self, worker: Worker, now: float) -> None:
        """Move a leaving worker on: end its streams, terminate it, kill it."""
        board = self._parent.board
        if worker.leaving and not worker.terminated:
            ending = now >= worker.end_streams_at
            if ending:
                board.set(worker.row, Column.DRAIN, Drain.END_STREAMS)
            stopped_accepting = board.get(worker.row, Column.STATE) == State.STOPPING
            if now >= worker.term_at or (stopped_accepting and fleet.quiet(worker, board, besides_http2=ending)):
                self._terminate(worker)
        if worker.kill_at and now >= worker.kill_at:
            worker.kill_at = 0.0
            worker.reason = worker.reason or f"worker {worker.index + 1} did not leave in time and was killed"
            self._parent.nursery.signal(worker.child, signal.SIGKILL)
