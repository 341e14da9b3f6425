"""One generation as the supervisor sees it: its zygote, its workers, its state."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import os
import signal
import socket
import subprocess
from collections.abc import Callable

from instar.listeners.base import Slot
from instar.runtime import channel
from instar.runtime.scoreboard import Column, Drain, Scoreboard
from instar.supervisor.changes import Changes
from instar.supervisor.plan import Plan
from instar.supervisor.transitions import ALIVE, Event, GenerationState, next_state
from instar.system import System

#: After its own stop timeout a zygote gets so many seconds more before it is killed.
ZYGOTE_MARGIN = 3.0


@dataclasses.dataclass
class WorkerView:
    """A worker process. The generation owns `pidfd`."""

    index: int
    row: int
    pid: int
    pidfd: int
    ready: bool = False


@dataclasses.dataclass(frozen=True)
class Failure:
    """Why a generation can't serve."""

    stage: str
    error: str
    traceback: str = ""


class Generation:
    """Owner of the zygote's process, the connection to it, the scoreboard and the workers' pidfds."""

    def __init__(
        self, number: int, slot: Slot, plan: Plan, system: System, note: Callable[[Generation, str, str], None]
    ) -> None:
        self.number = number
        self.slot = slot
        self.plan = plan
        self.state = GenerationState.BOOTING
        self.since = system.time()
        self.nonce = os.urandom(16).hex()
        self.board = Scoreboard.create(2 * plan.workers)
        self.workers: dict[int, WorkerView] = {}
        #: How often each worker was replaced after a crash.
        self.restarts = [0] * plan.workers
        self.loaded: channel.Loaded | None = None
        self.failure: Failure | None = None
        #: Unexpected ends of processes since the commit.
        self.crashes: list[str] = []
        self.committed = False
        self.kept_until: float | None = None
        self.changes = Changes()
        self.zygote_alive = False
        self.pid = 0
        self._system = system
        self._note = note
        self._process: subprocess.Popen[bytes] | None = None
        self._pidfd = -1
        self._channel: channel.Channel | None = None
        self._loop = asyncio.get_running_loop()

    def move(self, event: Event) -> None:
        """Change the state; an impossible move raises TransitionError."""
        self.state = next_state(self.state, event)
        self.since = self._system.time()
        self.changes.notify()

    @property
    def alive(self) -> bool:
        """Whether processes of it may live."""
        return self.state in ALIVE

    # --- processes --------------------------------------------------------------------------------

    def attach(self, process: subprocess.Popen[bytes], connection: socket.socket) -> None:
        """Take over the zygote that was just started and the connection to it."""
        self._process = process
        self.pid = process.pid
        self.zygote_alive = True
        self._pidfd = self._system.pidfd_open(process.pid)
        connection.setblocking(False)
        self._channel = channel.Channel(connection)
        self._loop.add_reader(self._pidfd, self._on_zygote_exit)
        self._loop.add_reader(connection, self._on_readable)

    def send(self, message: channel.Message) -> bool:
        """Send to the zygote; False when it is gone."""
        if self._channel is None:
            return False
        try:
            self._channel.send(message)
        except OSError:
            return False
        return True

    def commit(self) -> None:
        """From now on the zygote replaces dead workers."""
        self.committed = True
        self.send(channel.Commit())

    def _on_readable(self) -> None:
        while self._channel is not None:
            try:
                received = self._channel.receive()
            except BlockingIOError:
                return
            except ConnectionResetError:
                # It ended with messages of ours unread.
                received = None
            except (OSError, ValueError) as error:
                self._note(self, "channel_broken", f"cannot read from the zygote: {error}")
                received = None
            if received is None:
                self._loop.remove_reader(self._channel)
                self._channel.close()
                self._channel = None
                return
            message, fds = received
            try:
                if message is not None:
                    self._handle(message, fds)
            finally:
                for fd in fds:
                    os.close(fd)
                self.changes.notify()

    def _handle(self, message: channel.Message, fds: list[int]) -> None:
        match message:
            case channel.Loaded():
                self.loaded = message
                for text in message.notes:
                    self._note(self, "load_note", text)
            case channel.Failed(stage, error, traceback):
                self.failure = self.failure or Failure(stage, error, traceback)
            case channel.Forked(index, row, pid):
                # The descriptor becomes ours: take it out of the list that the caller closes.
                self.workers[pid] = WorkerView(index, row, pid, fds.pop())
            case channel.Ready(_, pid) if pid in self.workers:
                self.workers[pid].ready = True
            case channel.Exited():
                self._on_exited(message)
            case channel.Note(action, text):
                self._note(self, action, text)
            case _:
                pass

    def _on_exited(self, message: channel.Exited) -> None:
        worker = self.workers.pop(message.pid, None)
        if worker is not None:
            os.close(worker.pidfd)
        if message.reason:
            later = f"; its replacement starts in {message.respawn_in:g} s" if message.respawn_in > 0 else ""
            self._note(self, "worker_exited", message.reason + later)
        if self.committed and not message.expected:
            self.crashes.append(message.reason)
            self.restarts[message.worker] += 1

    def _on_zygote_exit(self) -> None:
        self._on_readable()
        self._loop.remove_reader(self._pidfd)
        os.close(self._pidfd)
        self._pidfd = -1
        self.zygote_alive = False
        status = self._system.finish(self._process) if self._process else 0
        if self.alive and not self.failure and self.state is not GenerationState.BOOTING:
            self.crashes.append(f"the zygote of generation {self.number} ended with status {status}")
        if self.state is GenerationState.BOOTING and not self.failure:
            self.failure = Failure("boot", f"the zygote ended with status {status} while booting")
        # Its workers are orphans now and so, as we are their subreaper, our children.
        for worker in self.workers.values():
            self._loop.add_reader(worker.pidfd, self._on_orphan_exit, worker)
        self.changes.notify()

    def _on_orphan_exit(self, worker: WorkerView) -> None:
        self._loop.remove_reader(worker.pidfd)
        os.close(worker.pidfd)
        self.workers.pop(worker.pid, None)
        self._system.reap(worker.pid)
        self.changes.notify()

    # --- readiness and load -----------------------------------------------------------------------

    def all_ready(self) -> bool:
        """Whether every worker number has a process that can answer."""
        return len({w.index for w in self.workers.values() if w.ready}) == self.plan.workers

    def ready_indexes(self) -> list[int]:
        """Worker numbers with a process that can answer."""
        return sorted({w.index for w in self.workers.values() if w.ready})

    def board_rows(self) -> list[int]:
        """Scoreboard rows of the living workers."""
        return [worker.row for worker in self.workers.values()]

    def sum(self, column: Column) -> int:
        """A counter over the living workers."""
        return sum(self.board.get(row, column) for row in self.board_rows())

    # --- the end ----------------------------------------------------------------------------------

    def drain(self, level: Drain) -> None:
        """Tell every process of the generation how far to go in sending its clients away."""
        self.board.drain = level

    def pause_accepting(self, gated: bool) -> None:
        """On shared sockets, leave new connections to the other generation."""
        if gated:
            self.send(channel.Quiesce(True))

    def resume_accepting(self, gated: bool) -> None:
        """On shared sockets, take new connections again."""
        if gated:
            self.send(channel.Quiesce(False))

    def gone(self) -> bool:
        """Whether no process of it is left."""
        return not self.zygote_alive and not self.workers

    async def stop(self, timeout: float) -> None:
        """End all its processes: gracefully, and after `timeout` seconds with SIGKILL. Returns when none is left."""
        if self.zygote_alive and not self.send(channel.Stop(timeout)):
            self._signal_zygote(signal.SIGTERM)
        elif not self.zygote_alive:
            self._signal_workers(signal.SIGUSR1)
            self._signal_workers(signal.SIGTERM)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self.changes.until(self.gone), timeout + ZYGOTE_MARGIN)
        if not self.gone():
            self.kill()
            await self.changes.until(lambda: not self.zygote_alive)
            # Those that it forked until it died.
            self.kill()
            await self.changes.until(self.gone)

    def _signal_zygote(self, sig: int) -> None:
        if self._pidfd >= 0:
            self._system.pidfd_signal(self._pidfd, sig)

    def _signal_workers(self, sig: int) -> None:
        for worker in self.workers.values():
            self._system.pidfd_signal(worker.pidfd, sig)

    def kill(self) -> None:
        """SIGKILL for all its processes; `stop` still has to wait for their end."""
        self._signal_zygote(signal.SIGKILL)
        self._signal_workers(signal.SIGKILL)

    def close(self) -> None:
        """Free the descriptors of a generation that is gone."""
        if self._channel is not None:
            self._loop.remove_reader(self._channel)
            self._channel.close()
            self._channel = None
        self.board.close()
