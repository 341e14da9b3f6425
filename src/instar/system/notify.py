"""What a service tells whoever supervises it, and the descriptors that it leaves there (sd_notify(3)).

A datagram of `NAME=value` lines goes to the UNIX socket in $NOTIFY_SOCKET. systemd is on the other end, or an Emperor
of ours. With FDSTORE=1 descriptors ride along; the supervisor keeps them and gives them to the next start of the
service (sd_listen_fds(3)), so that listening sockets outlive the process that opened them.
"""

from __future__ import annotations

import array
import contextlib
import dataclasses
import os
import select
import socket
import struct
import time
from collections.abc import Iterable, Iterator, Mapping, MutableMapping, Sequence
from pathlib import Path
from typing import Final

from instar.system.paths import unix_address

#: Kernel limit of descriptors in one message (SCM_MAX_FD, unix(7)).
MAX_FDS: Final = 253
#: Longest notification that is read; systemd's own limit is a page.
MAX_NOTICE: Final = 8192
#: Longest name of a stored descriptor (sd_pid_notify_with_fds(3), FDNAME=).
MAX_NAME: Final = 255
#: Seconds that a full queue of the supervisor may hold a notification up.
_PATIENCE: Final = 1.0
_CREDENTIALS: Final = struct.Struct("iII")


class Notifier:
    """The sending side. A notification that can't be delivered is lost: no service stops for want of a listener."""

    def __init__(self, address: str) -> None:
        """`address`: a path, or `@name` in the abstract namespace."""
        self.address = address

    @classmethod
    def from_environment(cls, environ: MutableMapping[str, str] | None = None) -> Notifier | None:
        """The supervisor that $NOTIFY_SOCKET names, or None. The variable is removed: no child speaks for us."""
        environ = os.environ if environ is None else environ
        address = environ.pop("NOTIFY_SOCKET", "")
        return cls(address) if address.startswith(("/", "@")) else None

    def send(self, fields: Mapping[str, str], fds: Sequence[int] = (), *, wait: bool = True) -> bool:
        """Send one notification, with descriptors; whether it was delivered. Raises ValueError for a line break.

        Without `wait` it is lost when the queue is full.
        """
        lines = [f"{name}={value}" for name, value in fields.items()]
        if any("\n" in line for line in lines):
            raise ValueError("a notification has one line for each field")
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock, contextlib.suppress(OSError):
            sock.settimeout(_PATIENCE if wait else 0.0)
            with self._reachable() as address:
                sock.connect(address)
            sock.sendmsg(["\n".join(lines).encode()], rights)
            return True
        return False

    def ready(self, status: str = "") -> bool:
        """The start is complete."""
        return self.send({"READY": "1", **({"STATUS": status} if status else {})})

    def reloading(self) -> bool:
        """A reload begins; `ready` ends it. The time is what systemd's Type=notify-reload asks for."""
        microseconds = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
        return self.send({"RELOADING": "1", "MONOTONIC_USEC": str(microseconds)})

    def stopping(self, status: str = "") -> bool:
        """The end begins."""
        return self.send({"STOPPING": "1", **({"STATUS": status} if status else {})})

    def status(self, text: str) -> bool:
        """One line for people."""
        return self.send({"STATUS": text})

    def store(self, name: str, fds: Sequence[int]) -> bool:
        """Leave descriptors with the supervisor, under a name of at most 255 characters without a colon."""
        if not stored_name(name):
            raise ValueError(f"{name!r} can't name a stored descriptor")
        return self.send({"FDSTORE": "1", "FDNAME": name}, fds)

    def forget(self, name: str) -> bool:
        """Have the descriptors of this name closed."""
        return self.send({"FDSTOREREMOVE": "1", "FDNAME": name})

    def barrier(self, timeout: float = 5.0) -> bool:
        """Wait until all earlier notifications have been handled; False after `timeout` seconds (sd_notify_barrier(3)).

        Who stores descriptors and leaves has to: a message of a process that is gone may not be attributed to it.
        """
        reader, writer = os.pipe2(os.O_CLOEXEC)
        try:
            sent = self.send({"BARRIER": "1"}, [writer])
            os.close(writer)
            poll = select.poll()
            poll.register(reader, 0)  # The hang-up is always reported.
            return sent and bool(poll.poll(timeout * 1000))
        finally:
            os.close(reader)

    @contextlib.contextmanager
    def _reachable(self) -> Iterator[str]:
        if self.address.startswith("@"):
            yield "\0" + self.address[1:]
            return
        with unix_address(Path(self.address)) as address:
            yield address


@dataclasses.dataclass(frozen=True)
class Notice:
    """One notification as received. The descriptors are the receiver's to close."""

    fields: dict[str, str]
    #: Of the sender, from the kernel.
    pid: int
    uid: int
    fds: tuple[int, ...] = ()

    def close(self) -> None:
        """Close the descriptors; a barrier is answered by that."""
        close_all(self.fds)


def notice_socket(path: Path, permissions: int = 0o600) -> socket.socket:
    """A non-blocking socket at `path` for `receive`; a stale one is replaced. Raises OSError."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        path.unlink(missing_ok=True)
        with unix_address(path) as address:
            sock.bind(address)
        path.chmod(permissions)
    except BaseException:
        sock.close()
        raise
    return sock


def receive(sock: socket.socket) -> Notice | None:
    """The next notification, or None when there is none. What can't be read is dropped, with its descriptors."""
    space = socket.CMSG_SPACE(_CREDENTIALS.size) + socket.CMSG_SPACE(MAX_FDS * 4)
    while True:
        try:
            data, ancillary, flags, _ = sock.recvmsg(MAX_NOTICE, space, socket.MSG_CMSG_CLOEXEC)
        except BlockingIOError:
            return None
        fds, (pid, uid) = _fds(ancillary), _sender(ancillary)
        if flags & (socket.MSG_CTRUNC | socket.MSG_TRUNC) or not pid:
            close_all(fds)
            continue
        lines = data.decode(errors="replace").splitlines()
        fields = dict(line.partition("=")[::2] for line in lines if "=" in line)
        return Notice(fields, pid, uid, tuple(fds))


def stored_name(name: str) -> bool:
    """Whether a stored descriptor may have this name: it must survive in LISTEN_FDNAMES."""
    return 0 < len(name) <= MAX_NAME and name.isascii() and name.isprintable() and ":" not in name


def listen_variables(pid: int, names: Sequence[str]) -> dict[str, str]:
    """The variables that tell process `pid` of the descriptors 3, 4 … (sd_listen_fds(3))."""
    if not names:
        return {}
    return {"LISTEN_PID": str(pid), "LISTEN_FDS": str(len(names)), "LISTEN_FDNAMES": ":".join(names)}


def close_all(fds: Iterable[int]) -> None:
    """Close descriptors."""
    for fd in fds:
        with contextlib.suppress(OSError):
            os.close(fd)


def watchdog_limit(environ: MutableMapping[str, str]) -> float:
    """Seconds within which each WATCHDOG=1 has to follow the one before; 0: nobody waits for one.

    sd_watchdog_enabled(3). The variables are removed: they are not for children.
    """
    microseconds, pid = environ.pop("WATCHDOG_USEC", ""), environ.pop("WATCHDOG_PID", "")
    if not microseconds.isascii() or not microseconds.isdigit() or pid not in ("", str(os.getpid())):
        return 0.0
    return int(microseconds) / 1e6


_Ancillary = Iterable[tuple[int, int, bytes]]


def _fds(ancillary: _Ancillary) -> list[int]:
    fds = array.array("i")
    for level, kind, data in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            fds.frombytes(data[: len(data) - len(data) % fds.itemsize])
    return fds.tolist()


def _sender(ancillary: _Ancillary) -> tuple[int, int]:
    for level, kind, data in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_CREDENTIALS):
            pid, uid, _ = _CREDENTIALS.unpack(data)
            return pid, uid
    return 0, 0
