"""Who may connect: a peer is believed in all it says of a client, its address included."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Iterable


class Peers:
    """This host and UNIX sockets, and whom the configuration names (`*`: everybody)."""

    def __init__(self, allow: Iterable[str]) -> None:
        names = set(allow)
        self._all = "*" in names
        self._networks = tuple(ipaddress.ip_network(name, strict=False) for name in names - {"*", "unix"})

    def admits(self, sock: socket.socket) -> bool:
        """Whether the other end of an accepted connection may stay. Raises OSError when it has gone."""
        if self._all or sock.family == socket.AF_UNIX:
            return True
        peer = _address(sock.getpeername()[0])
        # From the very address that it connects to: a packet with that source can't come from outside.
        if peer.is_loopback or peer == _address(sock.getsockname()[0]):
            return True
        return any(peer in network for network in self._networks)


def _address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    address = ipaddress.ip_address(text)
    # An IPv4 peer of a dual-stack socket.
    return getattr(address, "ipv4_mapped", None) or address
