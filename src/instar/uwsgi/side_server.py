"""The pool's end of its side socket: who of our zerglings lives, and which of them serve."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import os
import socket
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final, get_args

from instar.system import guarded, unix_address
from instar.uwsgi.side import Protocol, State, identity, peer, receive, send

_VERSION: Final = 1
_STATES: Final[dict[str, State]] = {state: state for state in get_args(State)}


@dataclasses.dataclass
class Client:
    """A zergling of ours. `pid` and `uid` are the kernel's word, `name` its own."""

    connection: socket.socket
    pid: int
    uid: int
    name: str = ""
    state: State = "starting"
    #: Identities of the sockets that it has.
    sockets: frozenset[int] = frozenset()
    greeted: bool = False

    def describe(self) -> str:
        """For messages."""
        return f"{self.name or 'a zergling'} (pid {self.pid})"


class SideServer:
    """Owner of the side socket and of its connections."""

    def __init__(
        self,
        listener: socket.socket,
        *,
        changed: Callable[[], object],
        returned: Callable[[Sequence[socket.socket]], object],
        log: Callable[[str], object],
    ) -> None:
        """`changed`: who serves may be different now. `returned`: sockets of our predecessor, to be closed or kept."""
        self.clients: list[Client] = []
        self._listener = listener
        self._changed = changed
        self._returned = returned
        self._log = log
        self._offer: Sequence[tuple[socket.socket, Protocol]] | None = None
        asyncio.get_running_loop().add_reader(listener, self._accept)

    def serves(self, sock: socket.socket) -> bool:
        """Whether one of ours takes new connections from this socket."""
        wanted = identity(sock)
        return any(client.state == "serving" and wanted in client.sockets for client in self.clients)

    def offer(self, sockets: Sequence[tuple[socket.socket, Protocol]]) -> None:
        """What zerglings get from now on; those that wait for an answer get it."""
        self._offer = sockets
        for client in list(self.clients):
            if client.greeted:
                self._answer(client)

    def close(self) -> None:
        """Hang up on all."""
        asyncio.get_running_loop().remove_reader(self._listener)
        self._listener.close()
        for client in list(self.clients):
            self._drop(client)

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            connection, _ = self._listener.accept()
            connection.setblocking(False)
            client = Client(connection, *peer(connection))
            self.clients.append(client)
            asyncio.get_running_loop().add_reader(connection, self._read, client)

    def _read(self, client: Client) -> None:
        try:
            packet = receive(client.connection)
        except BlockingIOError:
            return
        if packet is None:
            self._drop(client)
            self._log(f"{client.describe()} has gone")
            self._changed()
            return
        message, sockets = packet
        before = client.state, client.sockets
        client.state = _STATES.get(str(message.get("state")), client.state)
        if isinstance(numbers := message.get("sockets"), list):
            client.sockets = frozenset(number for number in numbers if isinstance(number, int))
        if "hello" in message and not client.greeted:
            self._greet(client, message, sockets)
        else:
            _close(sockets)
        if (client.state, client.sockets) != before:
            self._changed()

    def _greet(self, client: Client, message: dict[str, Any], sockets: Sequence[socket.socket]) -> None:
        client.greeted = True
        client.name = str(message.get("name", ""))[:200]
        # A socket from somebody else could be bound where only our user may bind.
        if client.uid in (0, os.geteuid()):
            self._returned(sockets)
        else:
            _close(sockets)
        if self._offer is not None:
            self._answer(client)

    def _answer(self, client: Client) -> None:
        sockets = self._offer or ()
        try:
            send(
                client.connection,
                {"hello": _VERSION, "protocols": [protocol for _, protocol in sockets]},
                [sock for sock, _ in sockets],
            )
        except OSError:
            self._drop(client)

    def _drop(self, client: Client) -> None:
        if client in self.clients:
            self.clients.remove(client)
            asyncio.get_running_loop().remove_reader(client.connection)
            client.connection.close()


def side_listener(path: Path, mode: int | None) -> socket.socket:
    """A listening side socket. A stale one is replaced; the zerg socket beside it guards both. Raises OSError."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK)
    try:
        path.unlink(missing_ok=True)
        with unix_address(path) as address:
            sock.bind(address)
        guarded.settle_socket(path, mode)
        sock.listen(128)
    except BaseException:
        sock.close()
        raise
    return sock


def _close(sockets: Sequence[socket.socket]) -> None:
    for sock in sockets:
        sock.close()
