"""The zygote: loads the application once, forks workers from it, and replaces those that die.

It owns the worker processes of its generation and outlives the supervisor: without one it goes on serving and
respawning, and listens at its known path for the next supervisor.
"""

from __future__ import annotations

import enum
import gc
import json
import os
import selectors
import signal
import sys
import time
import traceback
from collections.abc import Callable

from instar import PROTOCOL, engines
from instar.errors import InstarError
from instar.runtime import channel, fleet
from instar.runtime.fleet import Seat, Worker
from instar.runtime.link import Link
from instar.runtime.loader import Application, ForkHazards, explain, load, prepare_path
from instar.runtime.scoreboard import Column, Drain, Scoreboard, State
from instar.runtime.spec import GenerationSpec
from instar.runtime.worker import WorkerProcess, close_foreign, leave, pair
from instar.system import System, describe_status

#: Signals that must not reach a child before it has reset their handlers.
_BLOCKED = {signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2}
#: Seconds between two looks at the workers' health.
_CHECK_EVERY = 0.5


class Phase(enum.Enum):
    """Where the zygote stands; only ever goes down this list."""

    BOOTING = "booting"
    SERVING = "serving"
    STOPPING = "stopping"


class Zygote:
    """Owner of one generation's processes. Single-threaded: a fork must not lose threads."""

    def __init__(self, spec: GenerationSpec, system: System) -> None:
        self._spec = spec
        self._system = system
        self._board = Scoreboard(spec.scoreboard_fd, 2 * spec.workers)
        self._phase = Phase.BOOTING
        self._seats = [Seat(index) for index in range(spec.workers)]
        self._by_pid: dict[int, tuple[Seat, Worker]] = {}
        self._selector = selectors.DefaultSelector()
        self._link = Link(spec, self._selector, self._greet)
        self._events, self._events_writer = pair()
        self._wake, self._wake_writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._gate: tuple[int, int] | None = os.pipe2(os.O_CLOEXEC) if spec.gated else None
        self._app: Application | None = None
        self._loaded: channel.Loaded | None = None
        self._next_check = 0.0
        self._failed = False

    def run(self) -> int:
        """Load, fork, watch until told to stop; returns the exit code."""
        self._link.accept_first()
        try:
            self._load()
        except BaseException as error:
            text = explain(error)
            print(text, end="", file=sys.stderr, flush=True)
            self._link.send(channel.Failed("import", _describe(error), text[-20000:]))
            self._link.flush_all(1.0)
            return 1
        self._watch_descriptors()
        for seat in self._seats:
            seat.current = self._fork(seat)
        while self._phase is not Phase.STOPPING or self._by_pid:
            self._step()
        self._link.flush_all(1.0)
        return 1 if self._failed else 0

    # --- loading ----------------------------------------------------------------------------------

    def _load(self) -> None:
        spec, began = self._spec, self._system.monotonic()
        prepare_path(spec.chdir, spec.pythonpath)
        notes = list(spec.lazy_notes)
        if spec.target and not spec.lazy:
            hazards = ForkHazards()
            self._app = load(spec.target, factory=spec.factory, interface=spec.interface)
            found = hazards.found()
            if found and spec.lazy is None:
                self._become_lazy(found)
            notes += found
        engines.get(spec.engine).preload(spec.options)
        gc.collect()
        # Objects made so far move to a generation that the collector never visits: it would write to their
        # headers and so unshare their pages (gc.freeze, Python documentation).
        gc.freeze()
        interface = self._app.interface if self._app else spec.interface
        self._loaded = channel.Loaded(self._system.monotonic() - began, interface, bool(spec.lazy), notes)
        self._link.send(self._loaded)

    def _become_lazy(self, notes: list[str]) -> None:
        """Start over in a clean process image that leaves the import to the workers."""
        raw = json.loads(self._spec.to_json())
        raw |= {"lazy": True, "lazy_notes": notes, "connection_fd": self._link.detach()}
        fd = os.memfd_create("instar-spec", 0)
        os.write(fd, json.dumps(raw).encode())
        sys.stdout.flush()
        sys.stderr.flush()
        bootstrap = os.path.join(os.path.dirname(os.path.abspath(__file__)), "bootstrap.py")  # noqa: PTH100, PTH118, PTH120
        os.execv(sys.executable, [sys.executable, "-P", bootstrap, str(fd)])  # noqa: S606

    # --- event loop -------------------------------------------------------------------------------

    def _watch_descriptors(self) -> None:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, lambda *_: None)
        signal.set_wakeup_fd(self._wake_writer, warn_on_full_buffer=False)
        self._selector.register(self._wake, selectors.EVENT_READ, self._on_signal)
        self._selector.register(self._events, selectors.EVENT_READ, self._on_worker_events)
        self._link.watch(self._on_message)

    def _step(self) -> None:
        for key, mask in self._selector.select(self._patience()):
            handle: Callable[[int], None] = key.data
            handle(mask)
        now = self._system.monotonic()
        for seat in self._seats:
            if seat.respawn_at is not None and now >= seat.respawn_at and self._phase is Phase.SERVING:
                seat.respawn_at = None
                seat.current = self._fork(seat)
            for worker in seat.workers():
                self._press(worker, now)
        if self._phase is Phase.SERVING and now >= self._next_check:
            self._next_check = now + _CHECK_EVERY
            for seat in self._seats:
                self._check(seat)

    def _patience(self) -> float:
        if any(seat.leaving for seat in self._seats) or self._phase is Phase.STOPPING:
            return 0.1
        now = self._system.monotonic()
        due = [seat.respawn_at - now for seat in self._seats if seat.respawn_at is not None]
        return max(0.0, min([_CHECK_EVERY, *due]))

    def _on_signal(self, _mask: int) -> None:
        if signal.SIGTERM in os.read(self._wake, 512):
            self._stop(self._spec.stop_timeout)

    def _greet(self) -> None:
        """Tell a supervisor that has just connected where we stand."""
        pidfd = self._system.pidfd_open(os.getpid())
        hello = channel.Hello(PROTOCOL, self._spec.generation, os.getpid())
        self._link.send(hello, (pidfd, self._board.fd))
        os.close(pidfd)
        if self._loaded:
            self._link.send(self._loaded)
        self._link.send_missed()
        for seat, worker in self._by_pid.values():
            self._tell_forked(worker)
            if worker.ready:
                self._link.send(channel.Ready(seat.index, worker.pid))

    def _on_message(self, message: channel.Message) -> None:
        match message:
            case channel.Commit():
                self._commit()
            case channel.Stop(timeout):
                self._stop(timeout)
            case channel.Quiesce(on):
                self._quiesce(on)
            case channel.Recycle(index, reason):
                self._recycle(self._seats[index], reason)
            case channel.GetSockets():
                for item in self._spec.listeners:
                    fds = item.fds + item.held
                    self._link.send(channel.Sockets(item.address, len(fds)), fds)
            case _:
                pass

    def _commit(self) -> None:
        if self._phase is Phase.BOOTING:
            self._phase = Phase.SERVING
            if self._gate:
                # End of file opens the gate of every worker, also of those forked later.
                os.close(self._gate[1])
                self._gate = (self._gate[0], -1)

    def _quiesce(self, on: bool) -> None:
        """Shared sockets: stop accepting; or accept again, through fresh workers."""
        for seat in self._seats:
            if not on:
                self._recycle(seat, "it accepts again")
            elif seat.current:
                self._system.pidfd_signal(seat.current.pidfd, signal.SIGUSR2)

    # --- processes --------------------------------------------------------------------------------

    def _fork(self, seat: Seat) -> Worker | None:
        row = seat.free_row(self._spec.workers)
        if row is None:
            return None
        self._board.clear(row)
        sys.stdout.flush()
        sys.stderr.flush()
        # No handler of ours may run in the child, which would act on the zygote's behalf.
        signal.pthread_sigmask(signal.SIG_BLOCK, _BLOCKED)
        pid = self._system.fork()
        if pid == 0:
            self._child(seat.index, row)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _BLOCKED)
        pidfd = self._system.pidfd_open(pid)
        worker = Worker(seat.index, row, pid, pidfd, self._system.start_time(pid), self._system.monotonic())
        self._by_pid[pid] = (seat, worker)
        self._selector.register(pidfd, selectors.EVENT_READ, lambda _mask: self._on_exit(worker))
        self._tell_forked(worker)
        return worker

    def _child(self, index: int, row: int) -> None:
        code = 1
        try:
            signal.set_wakeup_fd(-1)
            for sig in _BLOCKED:
                signal.signal(sig, signal.SIG_DFL)
            self._shed()
            process = WorkerProcess(
                self._spec,
                self._board,
                index,
                row,
                tell=lambda data: self._events_writer.send(data),
                gate_fd=self._gate[0] if self._gate else None,
            )
            close_foreign(self._spec, process.sockets)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, _BLOCKED)
            code = process.run(self._app)
        except BaseException:
            traceback.print_exc()
        finally:
            leave(code)

    def _shed(self) -> None:
        """Close the child's copies of what only the zygote uses."""
        self._selector.close()
        self._link.close_copies()
        self._events.close()
        for fd in (self._wake, self._wake_writer, *(worker.pidfd for _, worker in self._by_pid.values())):
            os.close(fd)
        if self._gate and self._gate[1] >= 0:
            os.close(self._gate[1])

    def _tell_forked(self, worker: Worker) -> None:
        self._link.send(
            channel.Forked(worker.index, worker.row, worker.pid, worker.start_time), (worker.pidfd,), keep=False
        )

    def _on_worker_events(self, _mask: int) -> None:
        while True:
            try:
                event = json.loads(self._events.recv(65536))
            except BlockingIOError:
                return
            seat, worker = self._by_pid.get(event["pid"], (None, None))
            if seat is None or worker is None:
                continue
            if event["event"] == "ready":
                self._on_ready(seat, worker)
            elif self._phase is Phase.BOOTING:
                self._fail_boot(f"worker {seat.index + 1} failed: {event['error']}", event.get("traceback", ""))

    def _on_ready(self, seat: Seat, worker: Worker) -> None:
        worker.ready = True
        self._link.send(channel.Ready(seat.index, worker.pid), keep=False)
        if seat.arriving is worker:
            seat.arriving, old = None, seat.current
            seat.current = worker
            if old is not None:
                self._send_away(seat, old)

    def _on_exit(self, worker: Worker) -> None:
        status = self._system.reap(worker.pid)
        if status is None:
            return
        # The worker may have said why just before it ended.
        self._on_worker_events(0)
        seat, _ = self._by_pid.pop(worker.pid)
        self._selector.unregister(worker.pidfd)
        os.close(worker.pidfd)
        was_current, was_arriving = seat.current is worker, seat.arriving is worker
        seat.remove(worker)
        expected = worker.leaving or self._phase is Phase.STOPPING
        reason = worker.reason or ("" if expected else f"worker {seat.index + 1} {describe_status(status)}")
        delay = -1.0
        if self._phase is Phase.SERVING and (was_current or was_arriving):
            lived = self._system.monotonic() - worker.forked_at if worker.ready else 0.0
            delay = seat.backoff.next_delay(lived)
            if was_arriving:
                seat.recycle_after = self._system.monotonic() + max(delay, fleet.FIRST_DELAY)
            elif was_current and seat.arriving is not None:
                seat.current, seat.arriving = seat.arriving, None
                delay = -1.0
            elif was_current:
                seat.respawn_at = self._system.monotonic() + delay
        self._link.send(channel.Exited(seat.index, worker.pid, status, reason, delay, expected))
        if self._phase is Phase.BOOTING:
            self._fail_boot(f"worker {seat.index + 1} {describe_status(status)} before the generation served")

    def _fail_boot(self, error: str, trace: str = "") -> None:
        if not self._failed:
            self._failed = True
            self._link.send(channel.Failed("worker", error, trace))
        self._stop(self._spec.stop_timeout)

    def _stop(self, timeout: float) -> None:
        if self._phase is not Phase.STOPPING:
            self._phase = Phase.STOPPING
            for _, worker in self._by_pid.values():
                self._terminate(worker)
        for _, worker in self._by_pid.values():
            worker.kill_at = self._system.monotonic() + timeout

    def _terminate(self, worker: Worker) -> None:
        """Ask a worker to leave. Both signals may be pending at once: Python runs the handler of the lower
        number (SIGUSR1, which holds the connections for the linger) first."""
        worker.terminated = True
        worker.kill_at = self._system.monotonic() + self._spec.stop_timeout
        self._system.pidfd_signal(worker.pidfd, signal.SIGUSR1)
        self._system.pidfd_signal(worker.pidfd, signal.SIGTERM)

    # --- recycling --------------------------------------------------------------------------------

    def _check(self, seat: Seat) -> None:
        worker, now_ns = seat.current, time.monotonic_ns()
        if worker is None or not worker.ready:
            return
        if reason := fleet.stuck(worker, self._board, self._spec, now_ns):
            worker.reason = f"worker {seat.index + 1} was killed: {reason}"
            self._system.pidfd_signal(worker.pidfd, signal.SIGKILL)
        elif reason := fleet.overdue(worker, self._board, self._spec, now_ns):
            worker.reason = f"worker {seat.index + 1} was replaced: {reason}"
            self._recycle(seat, reason)
        elif reason := fleet.worn_out(worker, self._board, self._spec):
            self._recycle(seat, reason)

    def _recycle(self, seat: Seat, reason: str) -> None:
        if self._phase is not Phase.SERVING or seat.arriving or seat.leaving or not seat.current:
            return
        if self._system.monotonic() < seat.recycle_after:
            return
        self._link.send(channel.Note("recycle_worker", f"recycling worker {seat.index + 1}: {reason}"))
        seat.arriving = self._fork(seat)

    def _send_away(self, seat: Seat, worker: Worker) -> None:
        """The replacement answers: the old process stops accepting, and leaves when its last client has."""
        now = self._system.monotonic()
        seat.leaving, worker.leaving = worker, True
        worker.surveys_before = self._board.get(worker.row, Column.SURVEYS)
        self._board.set(worker.row, Column.DRAIN, Drain.CLOSE)
        worker.end_streams_at = now + self._spec.stream_grace
        limit = self._spec.stop_timeout if worker.reason else self._spec.drain_timeout
        worker.term_at = now + limit
        self._system.pidfd_signal(worker.pidfd, signal.SIGUSR2)

    def _press(self, worker: Worker, now: float) -> None:
        """Move a leaving worker on: end its streams, terminate it, kill it."""
        if worker.leaving and not worker.terminated:
            ending = now >= worker.end_streams_at
            if ending:
                self._board.set(worker.row, Column.DRAIN, Drain.END_STREAMS)
            stopped_accepting = self._board.get(worker.row, Column.STATE) == State.STOPPING
            if now >= worker.term_at or (stopped_accepting and fleet.quiet(worker, self._board, besides_http2=ending)):
                self._terminate(worker)
        if worker.kill_at and now >= worker.kill_at:
            worker.kill_at = 0.0
            worker.reason = worker.reason or f"worker {worker.index + 1} did not leave in time and was killed"
            self._system.pidfd_signal(worker.pidfd, signal.SIGKILL)


def _describe(error: BaseException) -> str:
    if isinstance(error, SystemExit):
        return f"the application called exit({error.code!r}) while it was imported"
    return (str(error) if isinstance(error, InstarError) else f"{type(error).__name__}: {error}")[:2000]


def main(text: str) -> int:
    """Run the zygote that the document describes."""
    return Zygote(GenerationSpec.from_json(text), System()).run()
