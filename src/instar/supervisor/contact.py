"""Meets the zygote of a generation whose supervisor died, and checks what it says before anything is believed.

The record (`supervisor/record.py`) is ours; the zygote runs the application's code. It is the recorded process or it
is refused: the kernel tells who listens at its path (SO_PEERCRED), a pidfd and the start time make sure that the pid
is not another process's by now, and every descriptor that it hands over is looked at.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import socket
import struct
import time
from pathlib import Path

from instar import PROTOCOL
from instar.errors import InstarError
from instar.runtime import channel
from instar.runtime.scoreboard import Scoreboard
from instar.supervisor.claims import ClaimError, check_process
from instar.supervisor.record import Record, boot_id, open_living
from instar.system import System, unix_address

#: A zygote that has imported the application answers at once; a busy machine may take its time (seconds).
PATIENCE = 10.0
#: More messages than any generation has reason for.
_MOST_MESSAGES = 20_000
_SO_COOKIE = 57


class ContactError(InstarError):
    """The zygote of a generation can't be adopted. `silent`: it has not answered in time, and may be sound."""

    silent = False


@dataclasses.dataclass
class Contact:
    """A generation that lives on: a connection to its zygote, and all that it handed over. Owner of every descriptor.

    `messages` came before and between the sockets, in their order, with their descriptors.
    """

    record: Record
    link: channel.Channel
    pidfd: int
    board: int = -1
    #: That it speaks.
    protocol: int = PROTOCOL
    committed: bool = False
    quiet: bool = False
    messages: list[tuple[channel.Message, list[int]]] = dataclasses.field(default_factory=list)
    #: By cookie.
    sockets: dict[int, socket.socket] = dataclasses.field(default_factory=dict)
    #: Name, sending and receiving end.
    queues: list[tuple[str, int, int]] = dataclasses.field(default_factory=list)

    def close(self) -> None:
        """Let go of it; it lives on."""
        self.link.close()
        fds = [self.pidfd, self.board, *(fd for _, ends in self.messages for fd in ends)]
        fds += [fd for _, *ends in self.queues for fd in ends]
        for fd in fds:
            if fd >= 0:
                os.close(fd)
        self.pidfd = self.board = -1
        self.messages.clear()
        self.queues.clear()
        for sock in self.sockets.values():
            sock.close()
        self.sockets.clear()


def living(record: Record, system: System) -> int:
    """A pidfd of the recorded zygote; -1 when it has ended."""
    if not record.pid or record.boot_id != boot_id():
        return -1
    return open_living(record.pid, record.start_time, system)


def meet(record: Record, path: Path, system: System, patience: float = PATIENCE) -> Contact | None:
    """Connect to a zygote and have it hand over what it holds; None when it has ended. Raises ContactError.

    An error closes the connection, and changes nothing.
    """
    pidfd = living(record, system)
    if pidfd < 0:
        return None
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    contact = Contact(record, channel.Channel(sock), pidfd)
    try:
        _connect(contact, path, patience)
        _listen(contact, time.monotonic() + patience)
    except (OSError, ValueError) as error:
        contact.close()
        if (again := living(record, system)) < 0:
            return None
        os.close(again)
        raise _refusal(record, error) from error
    return contact


def _refusal(record: Record, error: OSError | ValueError) -> ContactError:
    if not isinstance(error, TimeoutError):
        return ContactError(f"the zygote of generation {record.number} (pid {record.pid}) can't be believed: {error}")
    refusal = ContactError(
        f"cannot adopt generation {record.number}: its zygote (pid {record.pid}) doesn't answer; start again when it "
        f"does, or end it with `kill -KILL {record.pid}`"
    )
    refusal.silent = True
    return refusal


def _connect(contact: Contact, path: Path, patience: float) -> None:
    sock, record = contact.link.sock, contact.record
    sock.settimeout(patience)
    with unix_address(path) as address:
        sock.connect(address)
    pid, uid, _ = contact.link.peer()
    if pid != record.pid:
        raise ClaimError(f"process {pid} listens in its place")
    wanted = record.plan.credentials.uid
    if uid != (os.getuid() if wanted is None else wanted):
        raise ClaimError(f"it runs as uid {uid}")
    contact.link.send(channel.Greeting(PROTOCOL))
    contact.link.send(channel.GetSockets())


def _listen(contact: Contact, end: float) -> None:
    """Take messages until it says that this was all."""
    for _ in range(_MOST_MESSAGES):
        left = end - time.monotonic()
        if left <= 0:
            raise TimeoutError
        contact.link.sock.settimeout(left)
        received = contact.link.receive()
        if received is None:
            raise ClaimError("it closed the connection")
        message, fds = received
        try:
            if isinstance(message, channel.Whole):
                contact.committed, contact.quiet = message.committed, message.quiet
                if contact.board < 0:
                    raise ClaimError("it didn't introduce itself")
                return
            if message is not None:
                _take(contact, message, fds)
        finally:
            for fd in fds:
                os.close(fd)
    raise ClaimError("it talks without end")


def _take(contact: Contact, message: channel.Message, fds: list[int]) -> None:
    """Keep what one message brings; descriptors that are kept leave the list."""
    record = contact.record
    match message:
        case channel.Hello(protocol, generation, pid):
            if protocol > PROTOCOL:
                raise ClaimError(f"it speaks protocol {protocol}, and this instar only {PROTOCOL}")
            if (generation, pid) != (record.number, record.pid) or len(fds) != 2:
                raise ClaimError(f"it says that it is generation {generation} with pid {pid}")
            check_process(fds[0], pid, _uid_of(record))
            if os.fstat(fds[1]).st_ino != record.board or not Scoreboard.is_whole(fds[1], record.rows):
                raise ClaimError("its scoreboard is another one")
            if contact.board >= 0:
                raise ClaimError("it introduces itself twice")
            contact.board, contact.protocol = fds.pop(), protocol
        case channel.Sockets():
            known = {cookie for item in record.listeners for slot in item.cookies.values() for cookie in slot}
            while fds:
                _keep_socket(contact, _socket_of(fds[-1]), known)
                fds.pop()
        case channel.QueueEnds(name):
            if len(fds) != 2 or not all(map(_is_queue, fds)):
                raise ClaimError(f"the queue {name} isn't one")
            contact.queues.append((name, fds[0], fds[1]))
            fds.clear()
        case _:
            contact.messages.append((message, list(fds)))
            fds.clear()


def _socket_of(fd: int) -> socket.socket:
    try:
        return socket.socket(fileno=fd)
    except OSError as error:
        raise ClaimError("a socket that it hands over isn't one") from error


def _keep_socket(contact: Contact, sock: socket.socket, known: set[int]) -> None:
    """Take a socket, or close one that is there already. Raises ClaimError, and leaves the descriptor to the caller."""
    cookie = cookie_of(sock)
    if cookie not in known:
        sock.detach()
        raise ClaimError("a socket that it hands over is none of ours")
    if cookie in contact.sockets:
        sock.close()
        return
    contact.sockets[cookie] = sock


def _is_queue(fd: int) -> bool:
    with contextlib.suppress(OSError), socket.socket(fileno=os.dup(fd)) as sock:
        return sock.family == socket.AF_UNIX and sock.type == socket.SOCK_DGRAM
    return False


def _uid_of(record: Record) -> int:
    uid = record.plan.credentials.uid
    return os.getuid() if uid is None else uid


def cookie_of(sock: socket.socket) -> int:
    """The kernel's name for a socket, which no other gets until the next boot (socket(7), SO_COOKIE)."""
    raw = sock.getsockopt(socket.SOL_SOCKET, _SO_COOKIE, 8)
    return int(struct.unpack("=Q", raw)[0])
