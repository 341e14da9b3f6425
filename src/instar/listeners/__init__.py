"""Listeners: one bind address, two slots, and a switch between the generations that serve them."""

from __future__ import annotations

import functools
import socket
from collections.abc import Mapping, Sequence

from instar.config.address import parse_address
from instar.errors import ConfigError
from instar.listeners import order
from instar.listeners.base import Canary, Listener, Mode, Network, Probe, Slot, Steering, other
from instar.listeners.bpf import attach
from instar.listeners.errors import ListenError
from instar.listeners.lock import AddressLock
from instar.listeners.shared import SharedListener
from instar.listeners.steering import constant
from instar.listeners.systemd import is_bound_to
from instar.listeners.tcp import SteeredListener
from instar.listeners.unix import DEFAULT_PERMISSIONS, RenamedListener

__all__ = [
    "AddressLock",
    "Canary",
    "ListenError",
    "Listener",
    "Mode",
    "Network",
    "Probe",
    "RenamedListener",
    "SharedListener",
    "Slot",
    "SteeredListener",
    "Steering",
    "open_listener",
    "other",
    "restore_listener",
    "steering_supported",
]


@functools.cache
def steering_supported() -> bool:
    """Whether this kernel (or sandbox) takes a steering program."""
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            attach(sock, constant(0))
            order.available(sock)
    except OSError:
        return False
    return True


def open_listener(
    address: str,
    *,
    rows: int,
    backlog: int,
    mode: Mode | None = None,
    inherited: Sequence[socket.socket] = (),
    unix_permissions: int = DEFAULT_PERMISSIONS,
    unix_owner: tuple[int, int] | None = None,
) -> Listener:
    """Listen on `address`. A socket of `inherited` bound to it is used.

    `mode` is for TCP binds; None: the best that works. TCP is steered where the kernel can, UNIX sockets are renamed,
    inherited ones are shared (but an inherited TCP socket with ReusePort=yes is steered).
    Raises ConfigError, ListenError.
    """
    given = next((sock for sock in inherited if is_bound_to(sock, address)), None)
    if parse_address(address).kind == "unix":
        if given is not None:
            return SharedListener(address, given)
        return RenamedListener.open(address, backlog=backlog, permissions=unix_permissions, owner=unix_owner)
    if mode is Mode.RENAMED:
        raise ConfigError(f"cannot switch {address} by renaming: it is no UNIX socket")
    if given is not None:
        return _adopt_tcp(address, rows, backlog, mode, given)
    if mode is Mode.SHARED or (mode is None and not steering_supported()):
        return SharedListener.open(address, backlog=backlog)
    if not steering_supported():
        raise ConfigError(f'cannot steer {address}: this kernel takes no steering program; use web.steering = "auto"')
    return SteeredListener.open(address, rows=rows, backlog=backlog)


def restore_listener(
    address: str,
    mode: Mode,
    sockets: Mapping[Slot, Sequence[socket.socket]],
    *,
    steering: Steering,
    backlog: int,
    unix_permissions: int = DEFAULT_PERMISSIONS,
    unix_owner: tuple[int, int] | None = None,
) -> Listener:
    """Take over the sockets of a listener whose supervisor died: `sockets(slot)` of each slot, in row order.

    Workers may be accepting on them. `steering` is what the journal says and is in force afterwards.
    Raises ListenError; nothing is closed then.
    """
    if mode is Mode.STEERED:
        rows = [*sockets.get("a", ()), *sockets.get("b", ())]
        return SteeredListener.restore(address, rows, len(rows) // 2, steering=steering, backlog=backlog)
    if mode is Mode.RENAMED:
        return RenamedListener.restore(
            address,
            {slot: found[0] for slot, found in sockets.items() if found},
            live=steering.live,
            backlog=backlog,
            permissions=unix_permissions,
            owner=unix_owner,
        )
    found = next((found[0] for found in sockets.values() if found), None)
    if found is None or not is_bound_to(found, address):
        raise ListenError(f"cannot restore {address}: its socket is missing")
    return SharedListener(address, found)


def _adopt_tcp(address: str, rows: int, backlog: int, mode: Mode | None, given: socket.socket) -> Listener:
    given.setblocking(False)
    given.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    reusable = bool(given.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT))
    if mode is not Mode.SHARED and reusable and steering_supported():
        try:
            return SteeredListener.open(address, rows=rows, backlog=backlog, first=given)
        except ListenError:
            # The kernel lets only the uid that created the socket join its group.
            if mode is Mode.STEERED:
                raise
    if mode is Mode.STEERED:
        raise ConfigError(
            f"cannot steer {address}: its socket is inherited without ReusePort=yes; set that, or drop it"
        )
    return SharedListener(address, given)
