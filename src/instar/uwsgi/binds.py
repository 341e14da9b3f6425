"""Which address a socket serves, and which addresses are the same."""

from __future__ import annotations

import socket

from instar.config.address import Address
from instar.errors import ConfigError
from instar.uwsgi.side import Protocol


def bind_of(sock: socket.socket, protocol: Protocol) -> str:
    """What `web.bind` says to serve this listening socket. Raises ConfigError for one that has no such name."""
    name = sock.getsockname()
    if sock.family == socket.AF_UNIX:
        if not isinstance(name, str) or not name or name.startswith("\0"):
            raise ConfigError(f"cannot serve the socket {name!r}: it has no path")
        bind = f"unix:{name}"
    else:
        bind = f"[{name[0]}]:{name[1]}" if sock.family == socket.AF_INET6 else f"{name[0]}:{name[1]}"
    return f"uwsgi:{bind}" if protocol == "uwsgi" else bind


def leads_to(node: Address, listening: Address) -> bool:
    """Whether a client that connects to `node` reaches who listens on `listening`."""
    if node.kind != listening.kind or node.kind == "unix":
        return node == listening
    if node.port != listening.port or not node.port:
        return False
    here = {"", "localhost", "127.0.0.1", "::1", "0.0.0.0", "::"}  # noqa: S104
    return node.host == listening.host or (listening.wildcard or node.wildcard) or {node.host, listening.host} <= here
