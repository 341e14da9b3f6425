"""Messages to a pool or a handler: sent by any process of the application, received by active handlers.

A queue is a pair of connected UNIX datagram sockets (unix(7)), created by the supervisor and held by it and by every
zygote, so what is queued outlives restarts and the death of any process. Datagrams rather than SOCK_SEQPACKET: both
keep order and boundaries and are limited by the sender's buffer alone when they come from socketpair(2), but a
sequential socket turns an absent sender into an end of file that looks like an empty message.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import difflib
import errno
import os
import select
import socket
import time
from collections.abc import Mapping, Sequence

from instar.errors import InstarError

#: Bytes that one message may have.
MAX_MESSAGE = 64 << 10

#: Besides EAGAIN, which is a BlockingIOError: the kernel has no memory for a message.
_FULL = frozenset({errno.ENOBUFS, errno.ENOMEM})


class QueueError(InstarError):
    """The message was not taken, or can't be received here."""


class QueueFullError(QueueError):
    """The receivers are behind; the message was not taken. The sender may try again later."""


class UnknownQueueError(QueueError):
    """There is no pool and no handler of that name."""


class MessageTooBigError(QueueError):
    """The message was not taken: it is longer than `MAX_MESSAGE`, or than the host's socket buffers allow."""


@dataclasses.dataclass(frozen=True)
class QueueEnds:
    """Descriptors of both ends of a queue."""

    send: int
    receive: int


@dataclasses.dataclass(frozen=True)
class QueueSpec:
    """A queue as a zygote is told of it: its descriptors have the same numbers there."""

    #: Of a pool or of a handler.
    name: str
    send_fd: int
    receive_fd: int

    @property
    def ends(self) -> QueueEnds:
        """What `install_queues` takes."""
        return QueueEnds(self.send_fd, self.receive_fd)


class _Mailbox:
    """The queues of this process: all to send to, one or two to receive from. Owns their descriptors."""

    def __init__(self, queues: Mapping[str, QueueEnds], own: Sequence[str]) -> None:
        self._senders = {name: _adopt(ends.send) for name, ends in queues.items()}
        self._receivers = {name: _adopt(ends.receive) for name, ends in queues.items()}
        self._own = [self._receivers[name] for name in own if name in queues]
        self._stopped = False
        #: Readable, for good, as soon as nothing is to be received any more.
        self._stop_event = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)

    def _waited(self) -> list[int]:
        return [self._stop_event, *(sock.fileno() for sock in self._own)]

    def stop_receiving(self) -> None:
        self._stopped = True
        os.eventfd_write(self._stop_event, 1)

    def send(self, to: str, data: bytes) -> None:
        sender = self._senders.get(to)
        if sender is None:
            raise UnknownQueueError(_unknown(to, self._senders))
        if len(data) > MAX_MESSAGE:
            raise MessageTooBigError(_too_big(to, len(data), MAX_MESSAGE))
        try:
            sender.send(data)
        except OSError as error:
            raise _not_taken(error, to, len(data), sender) from error

    def receive(self, timeout: float | None) -> bytes | None:
        self._check()
        deadline = None if timeout is None else time.monotonic() + timeout
        while not self._stopped:
            message = self._take()
            if message is not None:
                return message
            left = None if deadline is None else deadline - time.monotonic()
            if left is not None and left <= 0:
                return None
            # Rounded up, or the last fraction of a millisecond would spin.
            self._poller().poll(None if left is None else int(left * 1000) + 1)
        return None

    async def receive_async(self, timeout: float | None) -> bytes | None:
        self._check()
        loop = asyncio.get_running_loop()
        deadline = None if timeout is None else loop.time() + timeout
        while not self._stopped:
            # Nothing is awaited between taking a message and returning it, so a cancelled task has taken none.
            message = self._take()
            if message is not None:
                return message
            if deadline is not None and loop.time() >= deadline:
                return None
            await self._readable(loop, deadline)
        return None

    async def _readable(self, loop: asyncio.AbstractEventLoop, deadline: float | None) -> None:
        """Wait until something may be there, or until the deadline."""
        done = loop.create_future()

        def wake() -> None:
            if not done.done():
                done.set_result(None)

        timer = None if deadline is None else loop.call_at(deadline, wake)
        # Own descriptors: a loop knows one reader for each, and two tasks may wait at the same time.
        copies = [os.dup(fd) for fd in self._waited()]
        try:
            for fd in copies:
                loop.add_reader(fd, wake)
            await done
        finally:
            if timer is not None:
                timer.cancel()
            for fd in copies:
                loop.remove_reader(fd)
                os.close(fd)

    def _take(self) -> bytes | None:
        for receiver in self._own:
            # Another receiver of the pool may have been quicker.
            with contextlib.suppress(BlockingIOError):
                return receiver.recv(MAX_MESSAGE)
        return None

    def _check(self) -> None:
        if not self._own:
            raise QueueError(
                "cannot receive messages: this process is not a handler; only handlers have queues to receive from, "
                "other processes send to them with instar.send"
            )

    def _poller(self) -> select.poll:
        """A poll object of its own for each call: CPython refuses to use one in two threads at a time."""
        poll = select.poll()
        for fd in self._waited():
            poll.register(fd, select.POLLIN)
        return poll

    def detach(self) -> None:
        """Give up the descriptors without closing those of the queues."""
        for sock in (*self._senders.values(), *self._receivers.values()):
            sock.detach()
        os.close(self._stop_event)


_mailbox: _Mailbox | None = None


def install_queues(queues: Mapping[str, QueueEnds], pool: str | None = None, name: str | None = None) -> None:
    """Give this process its queues; the runtime calls it in each forked child, before the application's code runs.

    `pool` and `name` say which of them it receives from; both None in a web worker, which only sends. The
    descriptors are this process's own from now on, and not inherited by programs that it starts.
    """
    global _mailbox
    if _mailbox is not None:
        _mailbox.detach()
    # A handler's own name first; a pool of one may have the name of its handler.
    own = list(dict.fromkeys(queue for queue in (name, pool) if queue is not None))
    _mailbox = _Mailbox(queues, own)


def send(to: str, data: bytes) -> None:
    """Queue a message for a handler, or for a pool, where one of its active handlers takes it. Never waits.

    Messages of one sender to one queue arrive in order; `b""` is a message too. When this returns, the message is
    queued and outlives restarts, and it is handed to one receiver once: a handler that is killed while it has the
    message takes it along. Raises QueueFullError, UnknownQueueError, MessageTooBigError; then nothing was queued.
    """
    if _mailbox is None:
        raise UnknownQueueError(
            f"cannot send to {to!r}: this process is not run by instar (or is still importing the application, before "
            "the fork), so it has no queues"
        )
    _mailbox.send(to, data)


def receive(timeout: float | None = None) -> bytes | None:
    """The next message for this handler's name or its pool; waits for `timeout` seconds, None: without limit.

    None when the time is over, and as soon as the handler has to release its name: what is queued then is left to
    the successor. Raises QueueError outside a handler.
    """
    return _installed().receive(timeout)


async def receive_async(timeout: float | None = None) -> bytes | None:
    """`receive` for asyncio. A cancelled call has taken no message."""
    return await _installed().receive_async(timeout)


def stop_receiving() -> None:
    """Make every `receive`, waiting or to come, return None: the handler is releasing its name. For any thread."""
    if _mailbox is not None:
        _mailbox.stop_receiving()


def _installed() -> _Mailbox:
    if _mailbox is None:
        raise QueueError("cannot receive messages: this process is not a handler run by instar")
    return _mailbox


def _adopt(fd: int) -> socket.socket:
    os.set_inheritable(fd, False)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM, fileno=fd)
    # Not left to MSG_DONTWAIT: with a default timeout, or under gevent, the library itself would wait.
    sock.setblocking(False)
    return sock


def _not_taken(error: OSError, to: str, length: int, sender: socket.socket) -> QueueError:
    if isinstance(error, BlockingIOError) or error.errno in _FULL:
        return QueueFullError(f"cannot send to {to!r}: its queue is full; try again later, or add handlers to the pool")
    if error.errno == errno.EMSGSIZE:
        return MessageTooBigError(
            _too_big(to, length, sender.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF))
            + ", or raise net.core.wmem_max"
        )
    return QueueError(f"cannot send to {to!r}: {(error.strerror or str(error)).lower()}")


def _too_big(to: str, length: int, limit: int) -> str:
    return f"cannot send {length} bytes to {to!r}: the limit is {limit}; store them and send where they are"


def _unknown(to: str, known: Mapping[str, object]) -> str:
    if not known:
        return f"cannot send to {to!r}: this application has no handlers; add a table [handlers.POOL]"
    near = difflib.get_close_matches(to, known, 1)
    hint = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(sorted(known)[:8])}"
    return f"cannot send to {to!r}: there is no such pool or handler; {hint}"
