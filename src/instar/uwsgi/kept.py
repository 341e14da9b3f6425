"""Sockets that outlive the pool: whoever supervises it keeps copies and gives them to its next start.

A zergling holds a pool's sockets as long as it lives. A pool that came back without them could not bind again
(EADDRINUSE), and a second socket at a UNIX path would silently split old and new zerglings.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import socket
import stat
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final, Literal

from instar.config.address import Address
from instar.listeners.endpoint import Endpoint
from instar.listeners.errors import ListenError, listen_error
from instar.listeners.systemd import Inherited, is_bound_to
from instar.system import guarded, unix_address
from instar.system.notify import Notifier

#: What a socket is for; part of its name with the supervisor.
Role = Literal["pool", "http", "zerg"]

_PREFIX: Final = "instar-"


def stored_as(role: Role, address: str) -> str:
    """Name of a socket with the supervisor: a digest, since an address has colons."""
    return f"{_PREFIX}{role}-{hashlib.sha256(address.encode()).hexdigest()[:20]}"


class Kept:
    """The sockets of one pool process by name. Owns them."""

    def __init__(self, notifier: Notifier | None, inherited: Sequence[Inherited], log: Callable[[str], object]) -> None:
        self._notifier = notifier
        self._inherited = list(inherited)
        self._log = log
        self._held: dict[str, socket.socket] = {}
        self._paths: dict[str, tuple[Path, tuple[int, int]]] = {}

    def recover(self, role: Role, address: Address) -> socket.socket | None:
        """The socket for this address that the supervisor kept, or that it opened for us (socket activation)."""
        name = stored_as(role, str(address))
        for item in self._inherited:
            ours = item.name == name
            if ours or _activated(item, address):
                self._inherited.remove(item)
                if address.kind == "tcp" or Path(address.path).is_socket():
                    self._adopt(name, item.socket, address, stored=ours)
                    return item.socket
                # Its path was removed: nobody can find it any more.
                self._forget(name, item.socket)
        return None

    def hold(self, role: Role, address: Address, sock: socket.socket) -> None:
        """Take over a socket, and leave a copy with the supervisor."""
        self._adopt(stored_as(role, str(address)), sock, address, stored=False)

    def release(self, role: Role, address: Address) -> None:
        """Close a socket for good: its copy and its path too."""
        self._release(stored_as(role, str(address)))

    def discard_strangers(self) -> None:
        """Close what the supervisor kept for an address that the configuration has no longer."""
        for item in [item for item in self._inherited if item.name.startswith(_PREFIX)]:
            self._inherited.remove(item)
            self._log(f"a socket of an earlier configuration is closed: {item.describe()}")
            self._forget(item.name, item.socket)

    def settle(self) -> bool:
        """Wait until the supervisor has the copies. Blocks; False when it does not say so."""
        return self._notifier is None or self._notifier.barrier()

    def close(self, *, keep: bool) -> None:
        """Close our descriptors. `keep`: the next start shall find all as it is."""
        for name in list(self._held):
            if keep:
                self._held.pop(name).close()
            else:
                self._release(name)

    def _adopt(self, name: str, sock: socket.socket, address: Address, *, stored: bool) -> None:
        # No flag is touched but O_NONBLOCK, which every holder wants.
        sock.setblocking(False)
        self._held[name] = sock
        if address.kind == "unix":
            with contextlib.suppress(OSError):
                self._paths[name] = (Path(address.path), _inode(Path(address.path)))
        if self._notifier is not None and not stored and not self._notifier.store(name, [sock.fileno()]):
            self._log(f"the supervisor did not take a copy of the socket for {address}")

    def _release(self, name: str) -> None:
        sock = self._held.pop(name, None)
        if sock is not None:
            self._forget(name, sock)
        path, inode = self._paths.pop(name, (None, None))
        if path is not None:
            with contextlib.suppress(OSError):
                # Somebody else's socket may be there meanwhile.
                if _inode(path) == inode:
                    path.unlink()

    def _forget(self, name: str, sock: socket.socket) -> None:
        sock.close()
        if self._notifier is not None:
            self._notifier.forget(name)


def open_listening(
    address: Address, *, backlog: int, mode: int | None, kind: int = socket.SOCK_STREAM
) -> socket.socket:
    """A non-blocking socket that listens. A UNIX path must be free or dead. Raises ListenError.

    `mode`: permissions of the path; None: as the umask says.
    """
    if address.kind == "unix":
        return _open_unix(Path(address.path), backlog, mode, kind)
    sock = Endpoint.resolve(address.location).bound_socket(reuse_port=False)
    try:
        sock.listen(backlog)
    except OSError as error:
        sock.close()
        raise listen_error(address.location, error) from error
    return sock


def in_use(error: ListenError) -> bool:
    """Whether another process has the address, which may be one that holds our predecessor's socket."""
    return isinstance(error.__cause__, OSError) and error.__cause__.errno == errno.EADDRINUSE


def _open_unix(path: Path, backlog: int, mode: int | None, kind: int) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, kind | socket.SOCK_NONBLOCK)
    try:
        _clear(path, kind)
        with unix_address(path) as name:
            sock.bind(name)
        guarded.settle_socket(path, mode)
        sock.listen(backlog)
    except OSError as error:
        sock.close()
        raise listen_error(f"unix:{path}", error) from error
    except BaseException:
        sock.close()
        raise
    return sock


def _clear(path: Path, kind: int) -> None:
    """Remove what a dead process left. Raises OSError (EADDRINUSE for a living one), ListenError."""
    try:
        if not stat.S_ISSOCK(path.lstat().st_mode):
            raise ListenError(f"cannot listen on unix:{path}: it exists and is no socket; move it away")
    except FileNotFoundError:
        return
    with socket.socket(socket.AF_UNIX, kind | socket.SOCK_NONBLOCK) as client:
        try:
            with unix_address(path) as name:
                client.connect(name)
        except (ConnectionRefusedError, FileNotFoundError):
            path.unlink(missing_ok=True)
            return
        except OSError as error:
            if error.errno == errno.EPROTOTYPE:
                path.unlink(missing_ok=True)
                return
    raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))


def _activated(item: Inherited, address: Address) -> bool:
    return not item.name.startswith(_PREFIX) and is_bound_to(item.socket, address.location)


def _inode(path: Path) -> tuple[int, int]:
    found = path.lstat()
    return found.st_dev, found.st_ino
