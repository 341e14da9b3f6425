"""Listening sockets handed over by a service manager (sd_listen_fds(3))."""

from __future__ import annotations

import dataclasses
import os
import socket
from collections.abc import MutableMapping, Sequence
from typing import Final

from instar.config.address import parse_address
from instar.errors import ConfigError
from instar.listeners.endpoint import Endpoint

_FIRST_FD: Final = 3
_VARIABLES: Final = ("LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES")


@dataclasses.dataclass(frozen=True)
class Inherited:
    """One socket, and its FileDescriptorName=."""

    name: str
    socket: socket.socket

    def describe(self) -> str:
        """For messages."""
        bound = self.socket.getsockname()
        return f"{self.name} ({bound if isinstance(bound, str) else f'{bound[0]}:{bound[1]}'})"


def take_inherited(environ: MutableMapping[str, str] | None = None, *, first: int = _FIRST_FD) -> list[Inherited]:
    """The listening stream sockets meant for this process; the variables are removed, so that no child believes them.

    Descriptors of other kinds (a file descriptor store's) are left alone. Raises ConfigError for malformed variables.
    """
    environ = os.environ if environ is None else environ
    count, pid, names = (environ.pop(name, "") for name in _VARIABLES)
    if not count or pid != str(os.getpid()):
        return []
    if not count.isascii() or not count.isdigit():
        raise ConfigError(f"cannot take over sockets: LISTEN_FDS={count!r} is no number")
    labels = names.split(":") if names else []
    taken = []
    for number in range(int(count)):
        sock = _listening(first + number)
        if sock is not None:
            taken.append(Inherited(labels[number] if number < len(labels) else "unknown", sock))
    return taken


def match(inherited: Sequence[Inherited], binds: Sequence[str]) -> dict[str, socket.socket]:
    """Which bind gets which socket. Raises ConfigError for a socket that no bind names: it would never be served."""
    matched: dict[str, socket.socket] = {}
    for item in inherited:
        bind = next((bind for bind in binds if bind not in matched and is_bound_to(item.socket, bind)), None)
        if bind is None:
            raise ConfigError(
                f"cannot serve the inherited socket {item.describe()}: web.bind does not name its address; "
                f"it has {', '.join(binds) or 'nothing'}"
            )
        matched[bind] = item.socket
    return matched


def is_bound_to(sock: socket.socket, bind: str) -> bool:
    """Whether the socket is bound to the address in the configuration."""
    address = parse_address(bind)
    if address.kind == "unix":
        return sock.family == socket.AF_UNIX and sock.getsockname() == address.path
    return Endpoint.resolve(bind).matches(sock)


def _listening(descriptor: int) -> socket.socket | None:
    try:
        os.set_inheritable(descriptor, False)
        sock = socket.socket(fileno=descriptor)
    except OSError:
        return None
    if sock.type == socket.SOCK_STREAM and sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        return sock
    sock.detach()
    return None
