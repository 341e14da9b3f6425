"""What a supervisor that died left in the state directory."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import os
import signal
import socket
from collections.abc import Sequence
from pathlib import Path

from instar.runtime.channel import Channel, Hello, Quiesce, Stop
from instar.runtime.scoreboard import Drain
from instar.supervisor.statedir import StateDir
from instar.system import unix_address

#: A living zygote answers at once, except while it imports the application (seconds).
_PATIENCE = 2.0
#: What its clients get to hear that their connections end, before it stops (seconds).
_FAREWELL = 6.0
#: Seconds between two looks at whether it has ended.
_LOOK_EVERY = 0.1


@dataclasses.dataclass
class Orphan:
    """A generation that serves on without its supervisor. Owner of the connection to its zygote, if that answers."""

    state: StateDir
    path: Path
    channel: Channel | None = None
    hello: Hello | None = None
    pidfd: int = -1
    board: int = -1

    def describe(self) -> str:
        """Why nothing can be started here."""
        if self.hello is None:
            return f"cannot start: the zygote at {self.path} of a supervisor that died doesn't answer; end it first"
        return (
            f"cannot start: generation {self.hello.generation} of a supervisor that died still serves; "
            f"end it with `kill {self.hello.pid}` (it finishes its requests), then start again"
        )

    async def retire(self, timeout: float) -> None:
        """End it because somebody else serves its sockets: no new connections, then no clients, then no process.

        `timeout`: seconds for its requests, then SIGKILL for the zygote.
        """
        try:
            if self.channel is None:
                return
            self.channel.sock.setblocking(False)
            with contextlib.suppress(OSError):
                if self.board >= 0:
                    # The first byte of the scoreboard; each response from now on closes its connection.
                    os.pwrite(self.board, bytes([Drain.CLOSE]), 0)
                self.channel.send(Quiesce(True))
                await self._listen(_FAREWELL)
                self.channel.send(Stop(timeout))
                if not await self._listen(timeout + _FAREWELL) and self.pidfd >= 0:
                    signal.pidfd_send_signal(self.pidfd, signal.SIGKILL)
        finally:
            self.close()

    async def _listen(self, seconds: float) -> bool:
        """Throw away what it says, until it ends (True) or the time is over."""
        loop = asyncio.get_running_loop()
        end = loop.time() + seconds
        while loop.time() < end:
            try:
                received = self.channel.receive() if self.channel else None
            except BlockingIOError:
                await asyncio.sleep(_LOOK_EVERY)
                continue
            except (OSError, ValueError):
                return True
            if received is None:
                return True
            for fd in received[1]:
                os.close(fd)
        return False

    def close(self) -> None:
        """Let go of it."""
        if self.channel:
            self.channel.close()
            self.channel = None
        for fd in (self.pidfd, self.board):
            if fd >= 0:
                os.close(fd)
        self.pidfd = self.board = -1


async def retire_all(orphans: Sequence[Orphan], timeout: float) -> None:
    """End them, and leave their state directories to others."""
    await asyncio.gather(*(orphan.retire(timeout) for orphan in orphans))
    for orphan in orphans:
        orphan.state.unlock()


def find_orphans(state: StateDir) -> list[Orphan]:
    """The generations that still live here; the sockets of dead ones are removed."""
    found = []
    for path in sorted(state.app.glob("g*.sock")):
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        sock.settimeout(_PATIENCE)
        try:
            with unix_address(path) as address:
                sock.connect(address)
        except OSError:
            sock.close()
            path.unlink(missing_ok=True)
            continue
        found.append(_meet(state, path, Channel(sock)))
    return found


def _meet(state: StateDir, path: Path, channel: Channel) -> Orphan:
    orphan = Orphan(state, path, channel)
    try:
        received = channel.receive()
    except (OSError, ValueError):
        received = None
    if received is None or not isinstance(received[0], Hello) or len(received[1]) < 2:
        for fd in received[1] if received else ():
            os.close(fd)
        orphan.close()
        return orphan
    orphan.hello, (orphan.pidfd, orphan.board, *rest) = received[0], received[1]
    for fd in rest:
        os.close(fd)
    return orphan
