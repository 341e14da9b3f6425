"""Messages between the supervisor and a zygote.

The zygote listens on a SOCK_SEQPACKET socket at a known path, so that a supervisor that comes after a crash
finds it. One message is one packet of JSON; descriptors ride along (SCM_RIGHTS, unix(7)). Fields and types
are only ever added: a receiver ignores what it does not know.
"""

from __future__ import annotations

import array
import dataclasses
import json
import os
import socket
from typing import ClassVar

MAX_MESSAGE = 128 * 1024
#: Kernel limit of descriptors in one message (SCM_MAX_FD, unix(7)).
MAX_FDS = 253

_TYPES: dict[str, type[Message]] = {}


@dataclasses.dataclass(frozen=True)
class Message:
    """Base of all messages; `kind` names the type on the wire."""

    kind: ClassVar[str] = ""

    def __init_subclass__(cls) -> None:
        _TYPES[cls.kind] = cls


# --- zygote to supervisor -------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Hello(Message):
    """First message of the zygote on each connection; carries its pidfd and the scoreboard.

    To a supervisor that connects late, the messages that it missed follow, then `Forked` and `Ready` of each
    living worker.
    """

    kind = "hello"
    protocol: int
    generation: int
    pid: int


@dataclasses.dataclass(frozen=True)
class Loaded(Message):
    """The application is imported. `notes` are warnings for the user."""

    kind = "loaded"
    seconds: float
    interface: str
    lazy: bool
    notes: list[str] = dataclasses.field(default_factory=list)


@dataclasses.dataclass(frozen=True)
class Failed(Message):
    """The generation can't come up; the zygote is about to leave. `stage`: import, worker, hang."""

    kind = "failed"
    stage: str
    error: str
    traceback: str = ""


@dataclasses.dataclass(frozen=True)
class Forked(Message):
    """A worker was forked; carries its pidfd. `row` is its place on the scoreboard."""

    kind = "forked"
    worker: int
    row: int
    pid: int
    start_time: int
    replaces: int = 0


@dataclasses.dataclass(frozen=True)
class Ready(Message):
    """A worker can answer requests."""

    kind = "ready"
    worker: int
    pid: int


@dataclasses.dataclass(frozen=True)
class Exited(Message):
    """A worker is gone. `status` as of `os.waitstatus_to_exitcode`; `respawn_in` < 0: it won't be replaced."""

    kind = "exited"
    worker: int
    pid: int
    status: int
    reason: str
    respawn_in: float = -1.0
    #: Asked for: the end of a generation, or a worker that was replaced before.
    expected: bool = False


@dataclasses.dataclass(frozen=True)
class Note(Message):
    """Something for the log."""

    kind = "note"
    action: str
    text: str


@dataclasses.dataclass(frozen=True)
class Asked(Message):
    """A process of the application asks for something: `reload`, `stop`. Only extensions let it."""

    kind = "asked"
    what: str


@dataclasses.dataclass(frozen=True)
class HandlerForked(Message):
    """A handler process was forked; carries its pidfd and the write ends of its arm and release pipes, so that a
    supervisor can command it, and it does not see the end of its zygote as a command."""

    kind = "handler-forked"
    name: str
    pid: int
    start_time: int


@dataclasses.dataclass(frozen=True)
class HandlerStandby(Message):
    """A handler has booted and waits for its name."""

    kind = "handler-standby"
    name: str
    pid: int


@dataclasses.dataclass(frozen=True)
class HandlerActive(Message):
    """A handler holds its name."""

    kind = "handler-active"
    name: str
    pid: int
    epoch: int


@dataclasses.dataclass(frozen=True)
class HandlerExited(Message):
    """A handler process is gone; see `Exited`."""

    kind = "handler-exited"
    name: str
    pid: int
    status: int
    reason: str
    respawn_in: float = -1.0
    expected: bool = False


# --- supervisor to zygote -------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Greeting(Message):
    """First message of the supervisor."""

    kind = "greeting"
    protocol: int


@dataclasses.dataclass(frozen=True)
class Commit(Message):
    """The generation serves: from now on dead workers are replaced (before, one death fails the boot)."""

    kind = "commit"


@dataclasses.dataclass(frozen=True)
class Quiesce(Message):
    """Shared listeners: stop accepting (`on`), or accept again."""

    kind = "quiesce"
    on: bool


@dataclasses.dataclass(frozen=True)
class Recycle(Message):
    """Replace a worker without loss."""

    kind = "recycle"
    worker: int
    reason: str = "asked"


@dataclasses.dataclass(frozen=True)
class Stop(Message):
    """End all workers gracefully (linger, SIGTERM, after `timeout` seconds SIGKILL), then leave."""

    kind = "stop"
    timeout: float
    #: Leave handlers that keep their names alone; the zygote ends when the last one has.
    keep_handlers: bool = False


@dataclasses.dataclass(frozen=True)
class ArmHandler(Message):
    """The newest process of a name may take it as soon as it is free."""

    kind = "arm-handler"
    name: str


@dataclasses.dataclass(frozen=True)
class ReleaseHandler(Message):
    """Ask the holder of a name to leave. `successor`: a newer process of the same generation follows."""

    kind = "release-handler"
    name: str
    successor: bool = False


@dataclasses.dataclass(frozen=True)
class StartHandler(Message):
    """Fork a fresh standby for a name."""

    kind = "start-handler"
    name: str


@dataclasses.dataclass(frozen=True)
class GetSockets(Message):
    """Ask for what the zygote holds for the supervisor: answered by `Sockets`, `QueueEnds` and, last, `Whole`."""

    kind = "get-sockets"


@dataclasses.dataclass(frozen=True)
class Sockets(Message):
    """Listening sockets in the order of `ListenerSpec.fds` and `held`, in as many messages as it takes."""

    kind = "sockets"
    address: str
    count: int


@dataclasses.dataclass(frozen=True)
class QueueEnds(Message):
    """A message queue of handlers; carries the sending and the receiving end."""

    kind = "queue-ends"
    name: str


@dataclasses.dataclass(frozen=True)
class Whole(Message):
    """The answer to `GetSockets` is complete, and with it all that a supervisor that has just connected is told."""

    kind = "whole"
    committed: bool
    #: Its workers were asked to leave new connections waiting.
    quiet: bool = False


def encode(message: Message) -> bytes:
    """The packet of a message."""
    return json.dumps({"type": message.kind, **dataclasses.asdict(message)}).encode()


def decode(packet: bytes) -> Message | None:
    """The message of a packet; None for a type that this release does not know. Raises ValueError for nonsense."""
    try:
        raw = json.loads(packet)
    except RecursionError:
        raise ValueError("a message is nested too deeply") from None
    if not isinstance(raw, dict) or not isinstance(raw.get("type"), str):
        raise ValueError("a message without a type arrived")
    cls = _TYPES.get(raw["type"])
    if cls is None:
        return None
    given = {}
    for field in dataclasses.fields(cls):
        if field.name in raw:
            given[field.name] = raw[field.name]
            if not _fits(field.type, raw[field.name]):
                raise ValueError(f"a message {cls.kind} arrived with a wrong {field.name}")
        elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            raise ValueError(f"a message {cls.kind} arrived without its {field.name}")
    return cls(**given)


def _fits(declared: object, value: object) -> bool:
    """Whether a value of JSON has the type of a field; annotations are text here."""
    match declared:
        case "int":
            return isinstance(value, int) and not isinstance(value, bool) and abs(value) < 1 << 63
        case "float":
            return isinstance(value, int | float) and not isinstance(value, bool)
        case "list[str]":
            return isinstance(value, list) and all(isinstance(item, str) for item in value)
        case "str":
            return isinstance(value, str)
        case _:
            return isinstance(value, bool)


class Channel:
    """One end of a connection. Closing it closes the socket."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock

    def fileno(self) -> int:
        """For selectors."""
        return self.sock.fileno()

    def send(self, message: Message, fds: tuple[int, ...] = ()) -> None:
        """Send one message. Raises OSError when the peer is gone or (non-blocking) its queue is full."""
        ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
        self.sock.sendmsg([encode(message)], ancillary, socket.MSG_NOSIGNAL)

    def receive(self) -> tuple[Message | None, list[int]] | None:
        """The next message and its descriptors (the caller owns them; close-on-exec); None at end of file.

        Raises BlockingIOError when there is none, ValueError on a truncated or malformed message.
        """
        space = socket.CMSG_LEN(MAX_FDS * array.array("i").itemsize)
        data, ancillary, flags, _ = self.sock.recvmsg(MAX_MESSAGE, space, socket.MSG_CMSG_CLOEXEC)
        fds = _descriptors(ancillary)
        # MSG_CTRUNC: the descriptor limit swallowed some; going on would lose sockets in silence.
        if flags & (socket.MSG_CTRUNC | socket.MSG_TRUNC):
            for fd in fds:
                os.close(fd)
            raise ValueError("a message arrived truncated (descriptor limit reached?)")
        if not data:
            return None
        try:
            return decode(data), fds
        except ValueError:
            for fd in fds:
                os.close(fd)
            raise

    def close(self) -> None:
        """Close the socket."""
        self.sock.close()

    def peer(self) -> tuple[int, int, int]:
        """(pid, uid, gid) of the other side when it connected (SO_PEERCRED, unix(7))."""
        raw = array.array("i")
        raw.frombytes(self.sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
        return raw[0], raw[1], raw[2]


def _descriptors(ancillary: list[tuple[int, int, bytes]]) -> list[int]:
    fds = array.array("i")
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            fds.frombytes(data[: len(data) - len(data) % fds.itemsize])
    return list(fds)
