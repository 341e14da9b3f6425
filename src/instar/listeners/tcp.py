"""TCP: two slots in one reuseport group, and a program in the kernel that picks the socket of each new connection."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from typing import Final

from instar.errors import ConfigError
from instar.listeners import order
from instar.listeners.base import Mode, Slot, Steering, other
from instar.listeners.bpf import Program, attach
from instar.listeners.endpoint import Endpoint, wait_connected
from instar.listeners.errors import ListenError, listen_error
from instar.listeners.steering import ProbeMatch, constant, steer

_BUILD_ATTEMPTS: Final = 3
_SO_COOKIE: Final = 57


class SteeredListener:
    """A reuseport group of `2 * capacity` sockets, bound as A0…An-1, B0…Bn-1.

    The supervisor and every zygote hold all of them: when the last holder closes one, or any holder shuts it down, it
    leaves the group and another one takes its index. `verify` finds that and repairs it.
    """

    mode = Mode.STEERED
    #: Which part of the restart promise this listener can't keep.
    limits = ""

    def __init__(
        self, endpoint: Endpoint, sockets: Sequence[socket.socket], *, backlog: int, steering: Steering | None = None
    ) -> None:
        """Take over sockets that are in one group already; `open` and `restore` are the ways to get there."""
        self.address = endpoint.address
        self.capacity = len(sockets) // 2
        self._endpoint = endpoint
        self._sockets = tuple(sockets)
        self._backlog = backlog
        #: The index in the kernel's group of each of our sockets.
        self._index = list(range(len(sockets)))
        # Until told otherwise: the one row that every generation serves.
        self._steering = steering or Steering(live="a", rows={"a": (0,), "b": (0,)})

    @classmethod
    def open(cls, address: str, *, rows: int, backlog: int, first: socket.socket | None = None) -> SteeredListener:
        """Bind and listen. `first`: an inherited socket with SO_REUSEPORT that becomes row 0 of slot A.

        Raises ListenError, ConfigError.
        """
        if rows < 1:
            raise ConfigError(f"cannot listen on {address}: a listener needs at least one row, not {rows}")
        endpoint = Endpoint.resolve(address)
        if first is not None:
            endpoint = endpoint.with_port(first.getsockname()[1])
        for attempt in range(_BUILD_ATTEMPTS):
            try:
                listener = cls._build(endpoint, rows, backlog, first)
            except ListenError:
                # Port 0: between the test and the group, anybody may be given the port.
                if endpoint.sockaddr[1] or attempt == _BUILD_ATTEMPTS - 1:
                    raise
                continue
            if listener._proven(keep=first):
                return listener
        raise ListenError(f"cannot listen on {address}: another process of this user shares it; stop that process")

    @classmethod
    def _build(cls, endpoint: Endpoint, rows: int, backlog: int, first: socket.socket | None) -> SteeredListener:
        if first is None:
            # SO_REUSEPORT joins the group of any process of the same uid in silence. A plain bind does not.
            with endpoint.bound_socket(reuse_port=False) as plain:
                endpoint = endpoint.with_port(plain.getsockname()[1])
        sockets: list[socket.socket] = [] if first is None else [first]
        try:
            while len(sockets) < 2 * rows:
                if not sockets:
                    sockets.append(endpoint.bound_socket(reuse_port=True))
                    sockets[0].listen(backlog)
                if len(sockets) == 1:
                    # Before a second socket joins: else the kernel would spread early clients over both slots.
                    attach(sockets[0], constant(0))
                sockets.append(endpoint.bound_socket(reuse_port=True))
                sockets[-1].listen(backlog)
        except BaseException as error:
            _close_all(sockets, keep=first)
            if isinstance(error, OSError):
                raise listen_error(endpoint.address, error) from error
            raise
        return cls(endpoint, sockets, backlog=backlog)

    @classmethod
    def restore(
        cls, address: str, sockets: Sequence[socket.socket], capacity: int, *, steering: Steering, backlog: int
    ) -> SteeredListener:
        """Take over sockets that another supervisor created (in `all_sockets` order) and that workers accept on.

        Checks address and group, finds the order, attaches `steering`. Raises ListenError; closes nothing then.
        """
        if not sockets or len(sockets) != 2 * capacity:
            raise ListenError(f"cannot restore {address}: {len(sockets)} sockets for {capacity} rows in two slots")
        if len({sock.getsockopt(socket.SOL_SOCKET, _SO_COOKIE, 8) for sock in sockets}) != len(sockets):
            raise ListenError(f"cannot restore {address}: two of the descriptors are the same socket")
        endpoint = Endpoint.resolve(address)
        if endpoint.matches(sockets[0]):
            endpoint = endpoint.with_port(sockets[0].getsockname()[1])  # the configuration may say 0
        for sock in sockets:
            if not endpoint.matches(sock):
                raise ListenError(f"cannot restore {address}: a socket is bound to {sock.getsockname()}")
            if not sock.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT):
                raise ListenError(f"cannot restore {address}: a socket lacks SO_REUSEPORT")
        listener = cls(endpoint, sockets, backlog=backlog, steering=steering)
        listener.verify()
        return listener

    def sockets(self, slot: Slot) -> tuple[socket.socket, ...]:
        """The listening sockets of a slot, in row order."""
        start = self._position(slot, 0)
        return self._sockets[start : start + self.capacity]

    def all_sockets(self) -> tuple[socket.socket, ...]:
        """Every socket: slot A's rows, then slot B's."""
        return self._sockets

    def prepare(self, slot: Slot, generation: int) -> None:
        """Make sure that every row is where the program says. Raises ListenError."""
        self.verify()

    def release(self, slot: Slot) -> None:
        """Nothing: the sockets stay for the next generation on that slot."""

    def apply(self, steering: Steering) -> None:
        """One atomic attach. Raises OSError, ConfigError (canary), ValueError (no such row); then nothing changed."""
        self._attach(self._program(steering))
        self._steering = steering

    def connect_probe(self, slot: Slot, row: int, timeout: float) -> socket.socket:
        """A blocking socket (with `timeout`) whose connection waits in the backlog of that row.

        Closing it resets the connection. Raises OSError (TimeoutError included).
        """
        client, target = self._endpoint.client_socket()
        try:
            source = client.getsockname()
            self._steer_probe(ProbeMatch(source[0], source[1]), self._kernel_index(slot, row))
            try:
                client.connect_ex(target)
                wait_connected(client, timeout)
            finally:
                self.apply(self._steering)
            client.settimeout(timeout)
        except BaseException:
            client.close()
            raise
        return client

    def verify(self) -> None:
        """Check that each index leads to its own socket; else find the order anew and steer by that.

        Works while workers accept. Raises ListenError when a socket of ours is not in the group.
        """
        try:
            # Before anything is attached: a program on a socket outside of the group would keep it from coming back.
            left = [sock for sock in self._sockets if not _listens(sock)]
            for sock in left:
                sock.listen(self._backlog)  # rejoins at the end of the group
            if not left and self._order_holds():
                return
            self._index = self._find_order()
        except OSError as error:
            raise listen_error(self.address, error) from error
        finally:
            self.apply(self._steering)

    def close(self) -> None:
        """Close every socket; connections in their backlogs are reset when no other process holds them."""
        _close_all(self._sockets)

    def _proven(self, keep: socket.socket | None) -> bool:
        """Whether the new group is in order. If not, or on an error (ListenError), its sockets are closed."""
        try:
            if self._order_holds():
                return True
        except OSError as error:
            _close_all(self._sockets, keep=keep)
            raise listen_error(self.address, error) from error
        _close_all(self._sockets, keep=keep)
        return False

    def _order_holds(self) -> bool:
        try:
            return all(
                order.leads_to(index, sock, self._endpoint, self._steer_probe)
                for index, sock in zip(self._index, self._sockets, strict=True)
            )
        finally:
            self.apply(self._steering)

    def _find_order(self) -> list[int]:
        found = {
            order.find(index, self._sockets, self._endpoint, self._steer_probe): index
            for index in range(len(self._sockets))
        }
        found.pop(None, None)
        if len(found) != len(self._sockets):
            raise ListenError(
                f"cannot steer {self.address}: {len(self._sockets) - len(found)} of its sockets left the group, or a "
                "process of the same user joined it; stop that process, or restart instar"
            )
        return [found[position] for position in range(len(self._sockets))]

    def _steer_probe(self, match: ProbeMatch, index: int) -> None:
        self._attach(self._program(self._steering, match, index))

    def _attach(self, program: Program) -> None:
        # A socket that somebody shut down has left the group. The kernel would take the program for it all the same,
        # in a group of its own, and steer nothing.
        attach(next(filter(_listens, self._sockets), self._sockets[0]), program)

    def _program(self, steering: Steering, match: ProbeMatch | None = None, index: int = 0) -> Program:
        standby = other(steering.live)
        return steer(
            self._indices(steering, steering.live),
            canary=steering.canary,
            canary_indices=self._indices(steering, standby) if steering.canary else (),
            probe=match,
            probe_index=index,
        )

    def _indices(self, steering: Steering, slot: Slot) -> list[int]:
        return sorted(self._kernel_index(slot, row) for row in steering.rows.get(slot, ()))

    def _kernel_index(self, slot: Slot, row: int) -> int:
        if not 0 <= row < self.capacity:
            raise ValueError(f"cannot steer {self.address} to row {row}: it has {self.capacity} rows a slot")
        return self._index[self._position(slot, row)]

    def _position(self, slot: Slot, row: int) -> int:
        return row + (self.capacity if slot == "b" else 0)


def _listens(sock: socket.socket) -> bool:
    return bool(sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN))


def _close_all(sockets: Sequence[socket.socket], keep: socket.socket | None = None) -> None:
    for sock in sockets:
        if sock is not keep:
            sock.close()
