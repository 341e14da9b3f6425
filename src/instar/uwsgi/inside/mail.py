"""Messages to mules and farms, over instar's message queues."""

from __future__ import annotations

import os
import select
import socket
import sys
import threading
import time
from collections.abc import Iterable, Sequence

from instar.handlers import messages
from instar.handlers.messages import QueueError, QueueSpec
from instar.uwsgi.inside.data import InsideData, MuleData
from instar.uwsgi.inside.interrupts import Interrupts

#: The queue that any mule takes messages from.
COMMON = "uwsgi:mules"


class Mail:
    """What this process sends, and receives when it is a mule."""

    def __init__(self, data: InsideData, queues: Sequence[QueueSpec]) -> None:
        self._data = data
        self._queues = {queue.name: queue for queue in queues}
        self._boxes: dict[str, socket.socket] = {}
        self._farms: tuple[str, ...] = ()
        self._own = ""
        #: Readable, for good, as soon as the mule has to leave.
        self._leaving_fd = -1
        self._leaving = False
        #: Whether a call that waits returns then, as one that a signal interrupts.
        self._tells = False
        self._interrupts: Interrupts | None = None
        self._told = threading.local()

    # --- sending ----------------------------------------------------------------------------------

    def to_common(self, message: bytes) -> bool:
        """Queue a message for any mule; False when it was not taken."""
        return self._send(COMMON, message)

    def to_mule(self, number: int, message: bytes) -> bool:
        """The same for one mule. Raises ValueError."""
        if not 1 <= number <= len(self._data.mules):
            raise ValueError("invalid mule number")
        return self._send(self._data.mules[number - 1].name, message)

    def to_farm(self, name: str, message: bytes) -> bool:
        """The same for any mule of a farm. Raises ValueError."""
        if name not in self._data.farms:
            raise ValueError("unknown farm")
        return self._send(name, message)

    def _send(self, queue: str, message: bytes) -> bool:
        try:
            messages.send(queue, message)
        except QueueError as error:
            print(f"*** {error} ***", file=sys.stderr, flush=True)
            return False
        return True

    # --- receiving --------------------------------------------------------------------------------

    def open_for(self, mule: MuleData) -> None:
        """Be this mule: after the fork, in its process."""
        self._own, self._farms = mule.name, mule.farms
        for name in (mule.name, COMMON, *mule.farms):
            queue = self._queues.get(name)
            if queue is not None and name not in self._boxes:
                # A copy: the descriptor belongs to instar.handlers.messages.
                self._boxes[name] = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM, fileno=os.dup(queue.receive_fd))
        self._interrupts = Interrupts()
        self._leaving_fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)

    def leave(self, *, interrupt: bool) -> None:
        """Take no more messages: the rest is the successor's. `interrupt`: who waits is told, once, by None."""
        self._tells, self._leaving = interrupt, True
        os.eventfd_write(self._leaving_fd, 1)

    def for_mule(self, farms: bool, size: int, timeout: float | None) -> bytes | None:
        """The next message for this mule, for any mule, or (`farms`) for one of its farms.

        b"" when `timeout` seconds are over; None when a signal interrupted the wait.
        """
        return self._receive((self._own, COMMON, *(self._farms if farms else ())), size, timeout)

    def for_farms(self, size: int) -> bytes | None:
        """The next message for one of this mule's farms."""
        return self._receive(self._farms, size, None)

    def _receive(self, names: Iterable[str], size: int, timeout: float | None) -> bytes | None:
        boxes = [self._boxes[name] for name in names if name in self._boxes]
        assert self._interrupts  # noqa: S101 - for the type checker: a mule has been opened
        with self._interrupts.heard() as signals:
            return self._receive_from(boxes, size, timeout, signals)

    def _receive_from(
        self, boxes: Sequence[socket.socket], size: int, timeout: float | None, signals: int
    ) -> bytes | None:
        deadline = None if timeout is None else time.monotonic() + timeout
        while True:
            message = None if self._leaving else _take(boxes, size)
            if message is not None:
                return message
            if self._to_be_told():
                return None
            left = None if deadline is None else deadline - time.monotonic()
            if left is not None and left <= 0:
                return b""
            if signals in self._wait(boxes, left, signals):
                return None

    def _to_be_told(self) -> bool:
        """Whether this thread has yet to hear that the mule is to leave: the signal may have come between two calls."""
        if not (self._leaving and self._tells) or getattr(self._told, "leaving", False):
            return False
        self._told.leaving = True
        return True

    def _wait(self, boxes: Sequence[socket.socket], seconds: float | None, signals: int) -> set[int]:
        poll = select.poll()
        if signals >= 0:
            poll.register(signals, select.POLLIN)
        if not self._leaving:
            poll.register(self._leaving_fd, select.POLLIN)
            for box in boxes:
                poll.register(box, select.POLLIN)
        # Rounded up, or the last fraction of a millisecond would spin.
        return {fd for fd, _ in poll.poll(None if seconds is None else int(seconds * 1000) + 1)}


def _take(boxes: Sequence[socket.socket], size: int) -> bytes | None:
    for box in boxes:
        try:
            # A longer message is cut, as a read(2) of uWSGI's cuts it.
            return box.recv(size, socket.MSG_DONTWAIT)
        except BlockingIOError:
            # Another mule may have been quicker.
            continue
    return None
