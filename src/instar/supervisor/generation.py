"""One generation as the supervisor sees it: its zygote, its workers, its state."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
from collections import deque
from collections.abc import Callable

from instar import PROTOCOL
from instar.listeners.base import Slot
from instar.runtime import channel
from instar.runtime.scoreboard import Column, Drain, Scoreboard
from instar.supervisor.changes import Changes
from instar.supervisor.claims import ClaimError, check_pipe, check_process
from instar.supervisor.contact import Contact
from instar.supervisor.plan import Parts, Plan
from instar.supervisor.transitions import ALIVE, Event, GenerationState, next_state
from instar.supervisor.views import Failure, HandlerView, WorkerView
from instar.system import System

#: After its own stop timeout a zygote gets so many seconds more before it is killed.
ZYGOTE_MARGIN = 3.0
_MOST_CRASHES = 20
#: How Python ends that doesn't understand its command line.
_USAGE = 2
#: Processes of one handler at a time: the holder, who is leaving, his successor, with room for a busy machine.
_MOST_OF_A_NAME = 6
#: Messages that are taken before everybody else has a turn; and once the zygote is dead.
_MOST_AT_ONCE = 50
_MOST_AT_THE_END = 20_000


class Generation:
    """Owner of the zygote's process, the connection to it, the scoreboard and the workers' pidfds."""

    def __init__(
        self,
        number: int,
        slot: Slot,
        plan: Plan,
        parts: Parts,
        system: System,
        note: Callable[[Generation, str, str], None],
        *,
        adopted: Contact | None = None,
    ) -> None:
        """`adopted`: of a supervisor that died; `take_over` makes it ours."""
        self.number = number
        self.slot = slot
        self.plan = plan
        self.parts = parts
        #: How many web workers it has.
        self.size = plan.workers if parts.web else 0
        #: Names that it was started with.
        self.names = tuple(item.name for item in plan.handler_specs() if parts.includes(item.pool))
        self.state = GenerationState.BOOTING
        self.since = system.time()
        self.nonce = adopted.record.nonce if adopted else os.urandom(16).hex()
        self.board = Scoreboard(adopted.board, self.rows) if adopted else Scoreboard.create(self.rows)
        self.workers: dict[int, WorkerView] = {}
        #: By pid.
        self.handlers: dict[int, HandlerView] = {}
        #: How often each worker was replaced after a crash.
        self.restarts = [0] * self.size
        #: The same for handlers, by name.
        self.handler_restarts: dict[str, int] = {}
        #: How often a process of each name ended before it had the name.
        self.handler_failures: dict[str, int] = {}
        self.loaded: channel.Loaded | None = None
        self.failure: Failure | None = None
        #: Unexpected ends of processes since the commit, the last ones.
        self.crashes: deque[str] = deque(maxlen=_MOST_CRASHES)
        #: The version of messages that its zygote speaks.
        self.protocol = adopted.protocol if adopted else PROTOCOL
        self.committed = False
        #: Its workers were asked to leave new connections waiting.
        self.paused = False
        self.kept_until: float | None = None
        self.changes = Changes()
        #: Called when one of its processes asks for something (`reload`, `stop`).
        self.on_asked: Callable[[str], None] = lambda _: None
        #: Called with the pid of each process that it has forked.
        self.on_forked: Callable[[int], None] = lambda _: None
        self.zygote_alive = False
        self.pid = 0
        self._system = system
        self._note = note
        self._process: subprocess.Popen[bytes] | None = None
        #: The zygote has said something.
        self._greeted = False
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

    @property
    def rows(self) -> int:
        """Of its scoreboard."""
        return max(1, 2 * self.size)

    @property
    def uid(self) -> int:
        """Whose processes its own are."""
        uid = self.plan.credentials.uid
        return os.getuid() if uid is None else uid

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
        self.send(channel.Greeting(PROTOCOL))

    def take_over(self, contact: Contact, state: GenerationState, since: float) -> None:
        """Become the owner of a generation whose supervisor died, and learn what has become of it."""
        self.state, self.since = state, since
        self.pid = contact.record.pid
        self.zygote_alive = True
        self.committed, self.paused = contact.committed, contact.quiet
        self._pidfd, contact.pidfd = contact.pidfd, -1
        # After an exec it is our child, and whoever reaps strays leaves it to us.
        self._system.expect(self.pid)
        self._channel, contact.board = contact.link, -1
        contact.link.sock.setblocking(False)
        messages, contact.messages = contact.messages, []
        for message, fds in messages:
            self._receive(message, fds)
        self._loop.add_reader(self._pidfd, self._on_zygote_exit)
        if self._channel is not None:
            self._loop.add_reader(self._channel, self._on_readable)

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

    def _on_readable(self, most: int = _MOST_AT_ONCE) -> None:
        # Whoever talks without end must not keep the event loop from everybody else.
        for _ in range(most):
            if self._channel is None:
                return
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
                self._hang_up()
                return
            message, fds = received
            self._receive(message, fds)

    def _receive(self, message: channel.Message | None, fds: list[int]) -> None:
        """Take one message and its descriptors. Whoever says what can't be true is not listened to any more."""
        try:
            if message is not None:
                self._greeted = True
                self._handle(message, fds)
        except (ClaimError, IndexError) as error:
            self._note(self, "channel_broken", f"cannot believe the zygote of generation {self.number}: {error}")
            self._hang_up()
        finally:
            for fd in fds:
                os.close(fd)
            self.changes.notify()

    def _hang_up(self) -> None:
        if self._channel is not None:
            self._loop.remove_reader(self._channel)
            self._channel.close()
            self._channel = None

    def _handle(self, message: channel.Message, fds: list[int]) -> None:
        match message:
            case channel.Hello(protocol) if protocol > PROTOCOL:
                text = (
                    f"the zygote speaks protocol {protocol}, this supervisor only {PROTOCOL}; install the newer instar"
                )
                self.failure = self.failure or Failure("protocol", text)
            case channel.Loaded():
                self.loaded = message
                for text in message.notes:
                    self._note(self, "load_note", text)
            case channel.Failed(stage, error, traceback):
                self.failure = self.failure or Failure(stage, error, traceback)
            case channel.Forked():
                self._on_forked(message, fds)
            case channel.Ready(_, pid) if pid in self.workers:
                self.workers[pid].ready = True
            case channel.Exited():
                self._on_exited(message)
            case channel.HandlerForked():
                self._on_handler_forked(message, fds)
            case channel.HandlerStandby(_, pid) if pid in self.handlers:
                self.handlers[pid].waiting = True
            case channel.HandlerActive(_, pid, epoch) if pid in self.handlers:
                self.handlers[pid].epoch = epoch
                self.handlers[pid].since = self._system.time()
            case channel.HandlerExited():
                self._on_handler_exited(message)
            case channel.Note(action, text):
                self._note(self, action, text)
            case channel.Asked(what):
                self.on_asked(what)
            case _:
                pass

    def _on_forked(self, message: channel.Forked, fds: list[int]) -> None:
        pid = message.pid
        if not (0 <= message.worker < self.size and 0 <= message.row < self.rows) or len(self.workers) > 3 * self.size:
            raise ClaimError(f"it has no place for worker {message.worker + 1}")
        self._check_descriptors(pid, fds)
        if pid not in self.workers:
            # The descriptor becomes ours: take it out of the list that the caller closes.
            self.workers[pid] = WorkerView(message.worker, message.row, pid, fds.pop(0))
            self.on_forked(pid)

    def _on_handler_forked(self, message: channel.HandlerForked, fds: list[int]) -> None:
        name, pid = message.name, message.pid
        if name not in self.names or len(self.handlers) > _MOST_OF_A_NAME * len(self.names):
            raise ClaimError(f"it has no place for a handler {name[:80]}")
        self._check_descriptors(pid, fds)
        if pid not in self.handlers:
            self.handlers[pid] = HandlerView(name, pid, fds[0], fds[1], fds[2], self._system.time())
            del fds[:3]
            self.on_forked(pid)

    def _check_descriptors(self, pid: int, fds: list[int]) -> None:
        """A pidfd and, for a handler, two pipes. Raises ClaimError."""
        check_process(fds[0], pid, self.uid)
        for fd in fds[1:3]:
            check_pipe(fd)
            # A full one must not stop us.
            os.set_blocking(fd, False)

    def _on_exited(self, message: channel.Exited) -> None:
        worker = self.workers.pop(message.pid, None)
        if worker is not None:
            os.close(worker.pidfd)
        if message.reason:
            later = f"; its replacement starts in {message.respawn_in:g} s" if message.respawn_in > 0 else ""
            self._note(self, "worker_exited", message.reason + later)
        if self.committed and not message.expected and 0 <= message.worker < self.size:
            self.crashes.append(message.reason)
            self.restarts[message.worker] += 1

    def _on_handler_exited(self, message: channel.HandlerExited) -> None:
        if message.name not in self.names:
            raise ClaimError(f"it has no handler {message.name[:80]}")
        view = self.handlers.pop(message.pid, None)
        if view is not None:
            view.close()
        if message.reason:
            later = f"; the next starts in {message.respawn_in:g} s" if message.respawn_in > 0 else ""
            self._note(self, "handler_exited", message.reason + later)
        if self.committed and not message.expected:
            self.handler_restarts[message.name] = self.handler_restarts.get(message.name, 0) + 1
            if view is None or not view.epoch:
                self.handler_failures[message.name] = self.handler_failures.get(message.name, 0) + 1
            if message.status:
                self.crashes.append(message.reason)

    def _on_zygote_exit(self) -> None:
        # No more than a socket holds: nobody writes any more, or somebody who should not have it.
        self._on_readable(_MOST_AT_THE_END)
        self._loop.remove_reader(self._pidfd)
        os.close(self._pidfd)
        self._pidfd = -1
        self.zygote_alive = False
        how = self._system.finish(self._process) if self._process else self._system.last_status(self.pid)
        status = "unknown" if how is None else how
        if self.alive and not self.failure and self.state is not GenerationState.BOOTING:
            self.crashes.append(f"the zygote of generation {self.number} ended with status {status}")
        if self.state is GenerationState.BOOTING and not self.failure:
            self.failure = Failure("boot", self._why_not_booted(status))
        # Its workers are orphans now and so, as we are their subreaper, our children.
        for worker in self.workers.values():
            self._loop.add_reader(worker.pidfd, self._on_orphan_exit, worker)
        for handler in self.handlers.values():
            self._loop.add_reader(handler.pidfd, self._on_orphan_handler_exit, handler)
        self.changes.notify()

    def _why_not_booted(self, status: int | str) -> str:
        if status == _USAGE and not self._greeted:
            python = self.plan.python
            return f"cannot run the application under {python}: it has no option -P, and Python 3.11 or newer is needed"
        return f"the zygote ended with status {status} while booting"

    def _on_orphan_handler_exit(self, view: HandlerView) -> None:
        self._loop.remove_reader(view.pidfd)
        view.close()
        self.handlers.pop(view.pid, None)
        self._system.reap(view.pid)
        self.changes.notify()

    def _on_orphan_exit(self, worker: WorkerView) -> None:
        self._loop.remove_reader(worker.pidfd)
        os.close(worker.pidfd)
        self.workers.pop(worker.pid, None)
        self._system.reap(worker.pid)
        self.changes.notify()

    # --- readiness and load -----------------------------------------------------------------------

    def all_ready(self) -> bool:
        """Whether every worker number has a process that can answer, and every name a standby."""
        answering = {worker.index for worker in self.workers.values() if worker.ready}
        waiting = {handler.name for handler in self.handlers.values() if handler.waiting}
        return len(answering) == self.size and waiting.issuperset(self.names)

    def unready(self) -> str:
        """What `all_ready` waits for, for people."""
        waiting = {handler.name for handler in self.handlers.values() if handler.waiting}
        absent = [name for name in self.names if name not in waiting]
        if absent and self.loaded:
            return f"{', '.join(absent)} did not reach standby: does the target call wait_active()?"
        return "" if self.loaded else "the application is still being imported"

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
        return not self.zygote_alive and not self.workers and not self.handlers

    def holder(self, name: str) -> HandlerView | None:
        """The process that holds a name, if it is one of ours."""
        return next((view for view in self.handlers.values() if view.name == name and view.epoch), None)

    def holders(self, name: str) -> frozenset[int]:
        """Pids of all that have held a name and still live: one that lost it may take a while to leave."""
        return frozenset(view.pid for view in self.handlers.values() if view.name == name and view.epoch)

    def standby(self, name: str, besides: frozenset[int]) -> HandlerView | None:
        """A process other than `besides` that has booted for this name. An armed one may have it by now."""
        views = [view for view in self.handlers.values() if view.name == name and view.waiting]
        return next((view for view in views if not view.releasing and view.pid not in besides), None)

    async def stop_web(self, timeout: float) -> None:
        """End its web workers only: handlers that keep their names run on, and the zygote with them."""
        if not self.send(channel.Stop(timeout, keep_handlers=True)):
            self._signal_workers(signal.SIGUSR1)
            self._signal_workers(signal.SIGTERM)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self.changes.until(lambda: not self.workers), timeout + ZYGOTE_MARGIN)
        self._signal_workers(signal.SIGKILL)
        await self.changes.until(lambda: not self.workers)

    async def stop(self, timeout: float) -> None:
        """End all its processes: gracefully, and after `timeout` seconds with SIGKILL. Returns when none is left."""
        if self.zygote_alive and not self.send(channel.Stop(timeout)):
            self._signal_zygote(signal.SIGTERM)
        elif not self.zygote_alive:
            self._signal_workers(signal.SIGUSR1)
            self._signal_workers(signal.SIGTERM)
            for handler in self.handlers.values():
                self.release_orphan(handler)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self.changes.until(self.gone), timeout + ZYGOTE_MARGIN)
        if not self.gone():
            self.kill()
            await self.changes.until(lambda: not self.zygote_alive)
            # Those that it forked until it died.
            self.kill()
            await self.changes.until(self.gone)

    def release_orphan(self, handler: HandlerView) -> None:
        """Ask a handler without zygote to leave."""
        handler.releasing = True
        with contextlib.suppress(OSError):
            os.write(handler.release, b"r")

    def signal_handler(self, handler: HandlerView, sig: int) -> None:
        """Signal a handler process."""
        self._system.pidfd_signal(handler.pidfd, sig)

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
        for handler in self.handlers.values():
            self.signal_handler(handler, signal.SIGKILL)

    def close(self) -> None:
        """Free the descriptors of a generation that is gone."""
        self._hang_up()
        self.board.close()
