"""UNIX sockets: each generation has a socket of its own, and the public path is renamed from one to the other.

A generation's socket is bound to a permanent name beside the public path (`app.sock.g7`) and never unbound while the
generation lives. The switch hard-links that name and renames the link over the public path: a client that connects
reaches one generation or the other, and what waits in the old one's backlog is still accepted there.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import socket
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final, NamedTuple

from instar.config.address import MAX_UNIX_PATH, parse_address
from instar.errors import ConfigError
from instar.listeners.base import Mode, Slot, Steering
from instar.listeners.errors import ListenError, listen_error
from instar.system import guarded

#: Read and write for owner and group: the front-end server joins the group, nobody else may connect.
DEFAULT_PERMISSIONS: Final = 0o660

_NAME = re.compile(r"\.g\d+")


class _Bound(NamedTuple):
    """A generation's socket, its permanent name, and what identifies the file: another may take the name later."""

    socket: socket.socket
    path: Path
    inode: tuple[int, int]


class RenamedListener:
    """One public path; a slot holds the socket of one generation."""

    mode = Mode.RENAMED
    limits = "no canary: a UNIX socket's clients can't be told apart, and its path leads to one generation at a time"

    def __init__(
        self,
        address: str,
        *,
        backlog: int,
        permissions: int = DEFAULT_PERMISSIONS,
        owner: tuple[int, int] | None = None,
    ) -> None:
        """`owner`: uid and gid (-1 keeps one). Raises ConfigError, and ListenError if the path is taken."""
        self.address = address
        self._public = Path(parse_address(address).path)
        #: The second link that the switch renames; one fixed name, so that a crash leaves one at most.
        self._next = self._public.with_name(f".{self._public.name}.next")
        self._backlog = backlog
        self._permissions = permissions
        self._owner = owner
        self._bound: dict[Slot, _Bound] = {}
        self._live: Slot | None = None
        length = len(os.fsencode(self._public))
        if length > MAX_UNIX_PATH:
            raise ConfigError(
                f"cannot listen on {address}: the path has {length} bytes, and a socket's path at most "
                f"{MAX_UNIX_PATH}; use a shorter one, for example in /run"
            )

    @classmethod
    def open(
        cls,
        address: str,
        *,
        backlog: int,
        permissions: int = DEFAULT_PERMISSIONS,
        owner: tuple[int, int] | None = None,
    ) -> RenamedListener:
        """Check the path; binding starts with `prepare`. Raises ConfigError, ListenError."""
        listener = cls(address, backlog=backlog, permissions=permissions, owner=owner)
        listener._refuse_taken(listener._public)
        listener._sweep()
        return listener

    @classmethod
    def restore(
        cls,
        address: str,
        sockets: Mapping[Slot, socket.socket],
        *,
        live: Slot,
        backlog: int,
        permissions: int = DEFAULT_PERMISSIONS,
        owner: tuple[int, int] | None = None,
    ) -> RenamedListener:
        """Take over sockets that another supervisor created, and switch to `live`.

        Raises ListenError; closes nothing then.
        """
        listener = cls(address, backlog=backlog, permissions=permissions, owner=owner)
        for slot, sock in sockets.items():
            listener._bound[slot] = listener._recognise(sock)
        if live in sockets:
            try:
                listener._switch_to(live)
            except OSError as error:
                raise listen_error(address, error) from error
        return listener

    def sockets(self, slot: Slot) -> tuple[socket.socket, ...]:
        """The slot's one socket; none before `prepare` and after `release`."""
        return (self._bound[slot].socket,) if slot in self._bound else ()

    def all_sockets(self) -> tuple[socket.socket, ...]:
        """The sockets of both slots, as far as they exist."""
        return self.sockets("a") + self.sockets("b")

    def prepare(self, slot: Slot, generation: int) -> None:
        """Bind the generation's permanent name; the second call for the same generation does nothing.

        Raises ListenError.
        """
        path = self._public.with_name(f"{self._public.name}.g{generation}")
        if slot in self._bound:
            if self._bound[slot].path == path and _is(path, self._bound[slot].inode):
                return
            self.release(slot)
        self._refuse_taken(path)
        try:
            path.unlink(missing_ok=True)
            self._bound[slot] = self._bind(path)
        except OSError as error:
            raise listen_error(self.address, error) from error

    def apply(self, steering: Steering) -> None:
        """Put the live slot's socket at the public path.

        Raises OSError, ConfigError (canary), ValueError (no generation in that slot).
        """
        if steering.canary is not None and (steering.canary.share or steering.canary.networks):
            raise ConfigError(
                f"cannot run a canary on {self.address}: {self.limits}; add a TCP bind, or drop the canary"
            )
        self._switch_to(steering.live)

    def connect_probe(self, slot: Slot, row: int, timeout: float) -> socket.socket:
        """A connection to the permanent name, whoever the public path leads to. Raises OSError."""
        client = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            client.settimeout(timeout)
            with _reachable(self._prepared(slot).path) as name:
                client.connect(name)
        except BaseException:
            client.close()
            raise
        return client

    def release(self, slot: Slot) -> None:
        """Close the slot's socket and remove its permanent name. Raises ValueError for the live slot."""
        if slot == self._live:
            raise ValueError(f"cannot release slot {slot} of {self.address}: the public path leads to it")
        bound = self._bound.pop(slot, None)
        if bound is not None:
            bound.socket.close()
            _remove(bound.path, bound.inode)

    def close(self) -> None:
        """Close both sockets; remove their names, and the public path if it is one of ours."""
        self._live = None
        for slot in tuple(self._bound):
            _remove(self._public, self._bound[slot].inode)
            self.release(slot)

    def _sweep(self) -> None:
        """Remove what supervisors that died left behind: their generations' names, a switch half done."""
        self._next.unlink(missing_ok=True)
        for path in self._public.parent.iterdir():
            if self._is_permanent(path) and path.is_socket() and not _answers(path):
                with contextlib.suppress(OSError):
                    path.unlink()

    def _bind(self, path: Path) -> _Bound:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        try:
            with _reachable(path) as name:
                sock.bind(name)
            inode = _inode(path)
            guarded.settle_socket(path, self._permissions, self._owner)
            sock.listen(self._backlog)
        except BaseException:
            sock.close()
            raise
        return _Bound(sock, path, inode)

    def _prepared(self, slot: Slot) -> _Bound:
        if slot not in self._bound:
            raise ValueError(f"cannot use slot {slot} of {self.address}: no generation is prepared there")
        return self._bound[slot]

    def _switch_to(self, slot: Slot) -> None:
        bound = self._prepared(slot)
        if not _is(self._public, bound.inode):
            self._next.unlink(missing_ok=True)
            self._next.hardlink_to(bound.path)
            try:
                self._next.rename(self._public)
            except OSError:
                self._next.unlink(missing_ok=True)
                raise
        self._live = slot

    def _refuse_taken(self, path: Path) -> None:
        """Raise unless `path` is free, or the socket of a dead process (which the rename or `prepare` replaces)."""
        try:
            found = path.lstat()
        except FileNotFoundError:
            if not path.parent.is_dir():
                raise ListenError(f"cannot listen on {self.address}: no folder {path.parent}; create it") from None
            return
        except OSError as error:
            raise listen_error(self.address, error) from error
        if not stat.S_ISSOCK(found.st_mode):
            raise ListenError(f"cannot listen on {self.address}: {path} exists and is no socket; move it away")
        if _answers(path):
            raise ListenError(f"cannot listen on {self.address}: another process serves there; stop it first")

    def _is_permanent(self, path: Path) -> bool:
        public = self._public.name
        return path.name.startswith(public) and _NAME.fullmatch(path.name, len(public)) is not None

    def _recognise(self, sock: socket.socket) -> _Bound:
        name = sock.getsockname()
        text = os.fsdecode(name) if isinstance(name, bytes) else str(name)
        path = self._public.with_name(Path(text).name)
        if sock.family != socket.AF_UNIX or not self._is_permanent(path):
            raise ListenError(f"cannot restore {self.address}: a socket is bound to {text!r}")
        try:
            return _Bound(sock, path, _inode(path))
        except OSError as error:
            raise ListenError(f"cannot restore {self.address}: {path} is gone; restart instar") from error


def _answers(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as client:
        try:
            with _reachable(path) as name:
                client.connect(name)
        except OSError as error:
            # Anything else may be a living server: EAGAIN is a full backlog, EACCES somebody else's socket.
            return error.errno not in (errno.ECONNREFUSED, errno.ENOENT)
    return True


@contextlib.contextmanager
def _reachable(path: Path) -> Iterator[str]:
    """A name for bind and connect: a path that is too long for them goes through a descriptor of its folder."""
    if len(os.fsencode(path)) <= MAX_UNIX_PATH:
        yield str(path)
        return
    folder = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{folder}/{path.name}"
    finally:
        os.close(folder)


def _inode(path: Path) -> tuple[int, int]:
    found = path.lstat()
    return found.st_dev, found.st_ino


def _is(path: Path, inode: tuple[int, int]) -> bool:
    try:
        return _inode(path) == inode
    except OSError:
        return False


def _remove(path: Path, inode: tuple[int, int]) -> None:
    if _is(path, inode):
        path.unlink(missing_ok=True)
