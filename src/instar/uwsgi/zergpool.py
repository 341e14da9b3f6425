"""One zerg pool: its socket, its side socket, and the listening sockets that it hands out."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import socket
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

from instar.config.address import Address, parse_address
from instar.listeners import AddressLock
from instar.uwsgi import zerg
from instar.uwsgi.binds import bind_of, leads_to
from instar.uwsgi.model import ZergPool
from instar.uwsgi.opening import Opener
from instar.uwsgi.side import peer, side_path
from instar.uwsgi.side_server import SideServer, side_listener

#: Foreign zerglings that are remembered for `status`.
_REMEMBERED: Final = 32


@dataclasses.dataclass
class OnePool:
    """A pool by its path. `open` and `answer` bring it up; the sockets belong to the opener's `kept`."""

    path: Path
    opener: Opener
    lock_folder: Path
    log: Callable[[str], object]
    #: Called when another set of our zerglings serves.
    changed: Callable[[], object]
    mode: int | None = None
    addresses: dict[Address, socket.socket] = dataclasses.field(default_factory=dict)
    side: SideServer | None = None
    #: Pids that asked for the sockets by the zerg protocol.
    asked: list[int] = dataclasses.field(default_factory=list)
    _lock: AddressLock | None = None
    _zerg: socket.socket | None = None

    @property
    def _own_address(self) -> Address:
        return Address(kind="unix", path=str(self.path))

    def serves(self, sock: socket.socket) -> bool:
        """Whether a zergling of ours takes new connections from this socket."""
        return self.side is not None and self.side.serves(sock)

    async def open(self, plan: ZergPool) -> None:
        """Open what is not open yet. Raises InstarError.

        Zerglings may connect at once, and wait for the answer until `answer`.
        """
        if self._zerg is None:
            self._lock = AddressLock(self.lock_folder, str(self._own_address))
            self._zerg = await self.opener.open("zerg", self._own_address)
            listener = side_listener(side_path(self.path), self.mode)
            self.side = SideServer(listener, changed=self.changed, returned=self.opener.returned, log=self._say)
        for address in map(parse_address, plan.addresses):
            if address not in self.addresses:
                self.addresses[address] = await self.opener.open("pool", address)

    def trim(self, plan: ZergPool) -> None:
        """Close what the plan has not."""
        wanted = [parse_address(text) for text in plan.addresses]
        for address in [address for address in self.addresses if address not in wanted]:
            self.opener.kept.release("pool", address)
            del self.addresses[address]
            self._say(f"{address} is closed here; zerglings that have it go on serving it until they end")

    def answer(self, http: Sequence[socket.socket]) -> None:
        """Hand out from now on; `http`: sockets that only zerglings of ours get."""
        if self._zerg is not None and self.side is not None:
            self.side.offer([(sock, "http") for sock in http])
            asyncio.get_running_loop().add_reader(self._zerg, self._hand_out, self._zerg)

    def serves_all(self, nodes: Sequence[Address]) -> bool:
        """Whether whoever serves this pool's sockets is all that there is behind these nodes."""
        return all(any(leads_to(node, address) for address in self.addresses) for node in nodes)

    def close(self, *, keep: bool) -> None:
        """Stop. `keep`: the sockets stay as they are for the next start."""
        if self._zerg is not None:
            asyncio.get_running_loop().remove_reader(self._zerg)
        if self.side is not None:
            self.side.close()
            with contextlib.suppress(OSError):
                side_path(self.path).unlink()
        if not keep:
            for address in self.addresses:
                self.opener.kept.release("pool", address)
            self.opener.kept.release("zerg", self._own_address)
        self.addresses, self._zerg, self.side = {}, None, None
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    def status(self) -> dict[str, Any]:
        """For `status`."""
        clients = self.side.clients if self.side is not None else []
        ours = {client.pid for client in clients}
        return {
            "path": str(self.path),
            "addresses": [bind_of(sock, "http") for sock in self.addresses.values()],
            "zerglings": [{"name": item.name, "pid": item.pid, "state": item.state} for item in clients],
            "foreign": [pid for pid in self.asked if pid not in ours and Path(f"/proc/{pid}").exists()],
        }

    def _hand_out(self, listener: socket.socket) -> None:
        with contextlib.suppress(OSError):
            connection, _ = listener.accept()
            with connection:
                # The message is shorter than any socket buffer, so it is sent whole without waiting for the peer.
                connection.setblocking(False)
                pid, _ = peer(connection)
                zerg.hand_out(connection, list(self.addresses.values()))
            if pid not in self.asked:
                self._say(f"pid {pid} attached")
                self.asked = [*self.asked, pid][-_REMEMBERED:]

    def _say(self, text: str) -> None:
        self.log(f"zerg pool {self.path}: {text}")
