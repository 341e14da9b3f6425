"""The zygote's side of the connection to the supervisor: one at a time, any number after each other."""

from __future__ import annotations

import contextlib
import os
import selectors
import socket
import time
from collections import deque
from collections.abc import Callable

from instar.runtime.channel import Channel, Exited, Failed, HandlerExited, Message, Note
from instar.runtime.spec import GenerationSpec

#: Messages kept for a supervisor that is away; the oldest are dropped.
_MOST_MISSED = 1000
#: How long the first supervisor is waited for: it connects before it starts us.
_FIRST_CONTACT = 5.0
#: Supervisors that wait to be accepted.
BACKLOG = 4


class Link:
    """Owns the control socket and the current connection. A dead supervisor must not take us along."""

    def __init__(self, spec: GenerationSpec, selector: selectors.BaseSelector, greet: Callable[[], None]) -> None:
        self._spec = spec
        self._selector = selector
        self._greet = greet
        self._listener = socket.socket(fileno=spec.control_fd)
        # Whoever connects sees the credentials of the process that called listen() (SO_PEERCRED, unix(7)): from now on
        # ours, so that a later supervisor can tell us from others who listen at this path.
        self._listener.listen(BACKLOG)
        self._listener.setblocking(False)
        self._channel: Channel | None = None
        #: Not yet taken by the socket, with the descriptors that ride along (ours only to send: duplicates).
        self._outbox: deque[tuple[Message, tuple[int, ...]]] = deque()
        self._missed: deque[Message] = deque(maxlen=_MOST_MISSED)
        self._handle: Callable[[Message], None] | None = None
        if spec.connection_fd >= 0:
            self._adopt(socket.socket(fileno=spec.connection_fd))

    def accept_first(self) -> None:
        """Take the supervisor that started us, before the import: it has to hear of a failure."""
        if self._channel:
            return
        self._listener.settimeout(_FIRST_CONTACT)
        with contextlib.suppress(OSError):
            self._on_connect(0)
        self._listener.setblocking(False)

    def watch(self, handle: Callable[[Message], None]) -> None:
        """From now on let the selector bring connections and messages."""
        self._handle = handle
        self._selector.register(self._listener, selectors.EVENT_READ, self._on_connect)
        self._register()

    def detach(self) -> int:
        """Give the connection's descriptor up for the next process image; -1 when there is none."""
        if self._channel is None:
            return -1
        self.flush_all(1.0)
        fd = self._channel.sock.detach()
        self._channel = None
        os.set_inheritable(fd, True)
        return fd

    def close_copies(self) -> None:
        """In a forked child: close what belongs to the zygote."""
        self._listener.close()
        if self._channel:
            self._channel.close()

    def send(self, message: Message, fds: tuple[int, ...] = (), *, keep: bool = True) -> None:
        """Send, or queue while the socket is full; without a supervisor keep what the next one must hear."""
        if self._channel is None:
            if keep and isinstance(message, Exited | Failed | HandlerExited | Note):
                self._missed.append(message)
            return
        self._outbox.append((message, tuple(os.dup(fd) for fd in fds)))
        self._flush()

    def send_missed(self) -> None:
        """Tell a new supervisor what happened while there was none."""
        while self._missed:
            self.send(self._missed.popleft())

    def flush_all(self, patience: float) -> None:
        """Empty the outbox before the process ends, waiting at most so many seconds."""
        end = time.monotonic() + patience
        while self._outbox and self._channel and time.monotonic() < end:
            self._flush()
            if self._outbox:
                time.sleep(0.01)

    def _on_connect(self, _mask: int) -> None:
        try:
            sock, _ = self._listener.accept()
        except BlockingIOError:
            return
        channel = Channel(sock)
        if channel.peer()[1] not in (0, self._spec.supervisor_uid):
            channel.close()
            return
        self._drop()
        self._adopt(sock)
        self._register()
        self._greet()

    def _adopt(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self._channel = Channel(sock)

    def _register(self) -> None:
        if self._channel and self._handle:
            self._selector.register(self._channel, self._events(), self._on_ready)

    def _events(self) -> int:
        return selectors.EVENT_READ | (selectors.EVENT_WRITE if self._outbox else 0)

    def _on_ready(self, mask: int) -> None:
        if mask & selectors.EVENT_WRITE:
            self._flush()
        if mask & selectors.EVENT_READ:
            self._receive()

    def _receive(self) -> None:
        while self._channel and self._handle:
            try:
                received = self._channel.receive()
            except BlockingIOError:
                return
            except (OSError, ValueError):
                received = None
            if received is None:
                self._drop()
                return
            message, fds = received
            for fd in fds:
                os.close(fd)
            if message is not None:
                self._handle(message)

    def _flush(self) -> None:
        while self._outbox and self._channel:
            message, fds = self._outbox[0]
            try:
                self._channel.send(message, fds)
            except BlockingIOError:
                break
            except OSError:
                self._drop()
                return
            self._outbox.popleft()
            for fd in fds:
                os.close(fd)
        if self._channel and self._handle:
            self._selector.modify(self._channel, self._events(), self._on_ready)

    def _drop(self) -> None:
        """The supervisor is gone: keep what it has not taken for the next one."""
        if self._channel is None:
            return
        if self._handle:
            self._selector.unregister(self._channel)
        self._channel.close()
        self._channel = None
        while self._outbox:
            message, fds = self._outbox.popleft()
            for fd in fds:
                os.close(fd)
            self.send(message)
