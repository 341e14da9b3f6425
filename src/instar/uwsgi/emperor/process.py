"""One process of a vassal: what the Emperor knows of it, and how it ends it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from instar.supervisor.changes import Changes
from instar.system import System, describe_status
from instar.uwsgi.emperor.fdstore import Stored
from instar.uwsgi.emperor.link import VARIABLE, Link, News, Order
from instar.uwsgi.emperor.vassal_file import Kind

#: Status of a process that isn't our child, so that the kernel doesn't tell.
UNKNOWN = 255
_EXEC_WITH = str(Path(__file__).with_name("exec_with.py"))


class VassalProcess:
    """Owner of the pidfd and of the link. `changes` tells of every news and of the end."""

    def __init__(
        self,
        pid: int,
        kind: Kind,
        program: str,
        system: System,
        changes: Changes,
        *,
        child: subprocess.Popen[bytes] | None,
    ) -> None:
        """`child` None: it was started by an Emperor that died. Raises OSError when it is gone."""
        #: Who runs it, and which program that is; its file may say something else by now.
        self.kind = kind
        self.program = program
        #: Called at its end, before anybody hears of it.
        self.on_end: Callable[[], None] = lambda: None
        self.pid = pid
        self.began = system.time()
        self.link: Link | None = None
        self.ready = False
        self.accepting = False
        self.loyal = False
        #: It was told to stop, or said that it does.
        self.stopping = False
        #: The vassal closed its end, though it may live: since when (monotonic), else 0.
        self.cursed = 0.0
        #: Of the last heartbeat (monotonic); 0 without any.
        self.heartbeat = 0.0
        #: What it said last about itself (STATUS=).
        self.words = ""
        #: Its state directory, if it said so.
        self.state_dir: Path | None = None
        #: None while it lives; negative: the signal that ended it.
        self.status: int | None = None
        self._system = system
        self._child = child
        self._changes = changes
        self._pidfd = system.pidfd_open(pid)
        asyncio.get_running_loop().add_reader(self._pidfd, self._on_exit)

    @property
    def alive(self) -> bool:
        """Whether it has not been reaped."""
        return self.status is None

    def connect(self, sock: socket.socket) -> None:
        """Take over the Emperor's end of its link."""
        self.link = Link(sock, self._on_news)

    @property
    def end_in_words(self) -> str:
        """How it ended."""
        if self.status is None:
            return "runs"
        return "ended" if self._child is None else describe_status(self.status)

    async def wait(self) -> int:
        """Its exit status; negative: a signal."""
        await self._changes.until(lambda: not self.alive)
        return UNKNOWN if self.status is None else self.status

    def order(self, order: Order) -> bool:
        """Send a byte; False when it has no link, or doesn't listen."""
        return self.alive and self.link is not None and self.link.send(order)

    def signal(self, sig: int) -> bool:
        """Signal the process alone; False when it is gone."""
        return self.alive and self._system.pidfd_signal(self._pidfd, sig)

    async def end(self, order: Order, fallback: int, mercy: float) -> int:
        """Tell it to end, by byte or else by signal; SIGKILL after `mercy` seconds. Its exit status."""
        self.stopping = True
        if not self.order(order):
            self.signal(fallback)
        with contextlib.suppress(TimeoutError):
            return await asyncio.wait_for(self.wait(), mercy)
        self.kill()
        return await self.wait()

    def kill(self) -> None:
        """SIGKILL for the process, and for its group if it leads one."""
        # A child of an earlier Emperor leads its own group too, and isn't reaped while the pidfd shows it alive.
        if self.alive:
            self._system.kill(-self.pid, signal.SIGKILL)
        self.signal(signal.SIGKILL)

    def adopted(self, began: float) -> None:
        """It is of an earlier Emperor, which heard what it had to say."""
        self.began = began
        self.ready = self.accepting = self.loyal = True

    def reset(self) -> None:
        """It begins anew in the same process (a reload): what it said before no longer counts."""
        self.ready = self.accepting = False

    def notified(self, fields: Mapping[str, str]) -> None:
        """It sent a notification (sd_notify(3))."""
        if fields.get("READY") == "1":
            self.ready = self.accepting = True
        if fields.get("STOPPING") == "1":
            self.stopping = True
        self.words = fields.get("STATUS", self.words)
        if told := fields.get("X_INSTAR_STATE"):
            self.state_dir = Path(told)
        self._changes.notify()

    def _on_news(self, news: News | None) -> None:
        now = self._system.monotonic()
        match news:
            case None:
                self.cursed = self.cursed or now
            case News.SPAWNED:
                self.ready = True
            case News.ACCEPTING:
                self.ready = self.accepting = True
            case News.LOYAL:
                self.loyal = True
            case News.STOPPING:
                self.stopping = True
                if self.kind is Kind.UWSGI:  # die-on-idle: it waits to be told to; instar's own are on their way
                    self.order(Order.STOP)
            case News.HEARTBEAT:
                self.heartbeat = now
        self._changes.notify()

    def _on_exit(self) -> None:
        asyncio.get_running_loop().remove_reader(self._pidfd)
        os.close(self._pidfd)
        self.status = UNKNOWN if self._child is None else self._system.finish(self._child)
        self.on_end()
        if self.link is not None:
            self.link.close()
        self._changes.notify()


def start(
    argv: Sequence[str],
    kind: Kind,
    *,
    env: Mapping[str, str],
    cwd: str,
    output: int,
    stored: Sequence[Stored],
    system: System,
    changes: Changes,
) -> VassalProcess:
    """Start a vassal. `stored`: what it gets as LISTEN_FDS. Raises OSError."""
    linked = kind is not Kind.NATIVE
    ours, theirs = socket.socketpair()
    with contextlib.closing(theirs):
        try:
            extra = {VARIABLE: str(theirs.fileno())} if linked else {}
            child = system.spawn(
                (*_exec_with(stored), *argv),
                env={**env, **extra},
                cwd=cwd,
                output=output,
                pass_fds=[*([theirs.fileno()] if linked else []), *(item.fd for item in stored)],
            )
            process = VassalProcess(child.pid, kind, argv[0], system, changes, child=child)
        except OSError:
            ours.close()
            raise
    if linked:
        process.connect(ours)
    else:
        ours.close()
    return process


def _exec_with(stored: Sequence[Stored]) -> tuple[str, ...]:
    if not stored:
        return ()
    fds, names = ",".join(str(item.fd) for item in stored), ":".join(item.name for item in stored)
    return (sys.executable, "-I", "-S", _EXEC_WITH, fds, names)
