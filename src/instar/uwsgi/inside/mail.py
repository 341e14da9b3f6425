"""Messages to mules and farms, over instar's message queues.

A mule that has to leave takes no more messages from them: they are its successor's. What it sends to itself, or to a
farm that it is in, stays in its process then. That is how scripts wake their own threads, by a message that means the
end (Galaxy's do), and in a queue that survives restarts it would end the successor's.
"""

from __future__ import annotations

import os
import select
import socket
import sys
import threading
import time
from collections.abc import Sequence

from instar.handlers import messages
from instar.handlers.messages import QueueError, QueueSpec
from instar.uwsgi.inside.data import InsideData, MuleData
from instar.uwsgi.inside.interrupts import Interrupts
from instar.uwsgi.inside.leaving import Leaving

#: The queue that any mule takes messages from.
COMMON = "uwsgi:mules"


class Mail:
    """What this process sends, and receives when it is a mule."""

    def __init__(self, data: InsideData, queues: Sequence[QueueSpec], leaving: Leaving) -> None:
        self._data = data
        self._queues = {queue.name: queue for queue in queues}
        self._boxes: dict[str, socket.socket] = {}
        self._farms: tuple[str, ...] = ()
        self._own = ""
        self._interrupts: Interrupts | None = None
        self._leaving = leaving
        #: Readable, for good, as soon as the mule has to leave.
        self._leaving_fd = -1
        #: What a leaving mule has sent to itself: name of the queue, and the message.
        self._inbox: list[tuple[str, bytes]] = []
        self._arrived = threading.Condition()
        self._told = False

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
        if self._leaving and queue in (self._own, *self._farms):
            with self._arrived:
                self._inbox.append((queue, message))
                self._arrived.notify_all()
            return True
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

    def leave(self) -> None:
        """Take no more messages from the queues. Who waits in the main thread is told once, as by a signal."""
        self._leaving.set()
        os.eventfd_write(self._leaving_fd, 1)

    def close(self) -> None:
        """The process ends: say what is lost."""
        if self._inbox:
            text = f"{len(self._inbox)} messages that {self._own} sent to itself while it had to leave are dropped"
            print(f"*** {text} ***", file=sys.stderr, flush=True)

    def for_mule(self, farms: bool, size: int, timeout: float | None) -> bytes | None:
        """The next message for this mule, for any mule, or (`farms`) for one of its farms.

        b"" when `timeout` seconds are over; None when a signal interrupted the wait.
        """
        return self._receive((self._own, COMMON, *(self._farms if farms else ())), size, timeout)

    def for_farms(self, size: int) -> bytes | None:
        """The next message for one of this mule's farms."""
        return self._receive(self._farms, size, None)

    def _receive(self, names: Sequence[str], size: int, timeout: float | None) -> bytes | None:
        deadline = None if timeout is None else time.monotonic() + timeout
        assert self._interrupts  # noqa: S101 - for the type checker: a mule has been opened
        with self._interrupts.heard() as signals:
            while not self._leaving:
                message = _take([self._boxes[name] for name in names if name in self._boxes], size)
                if message is not None:
                    return message
                left = None if deadline is None else deadline - time.monotonic()
                if left is not None and left <= 0:
                    return b""
                if signals in self._wait(names, left, signals):
                    return None
        # The signal may have come between two calls.
        if not self._told and threading.current_thread() is threading.main_thread():
            self._told = True
            return None
        return self._receive_own(names, size, deadline)

    def _wait(self, names: Sequence[str], seconds: float | None, signals: int) -> set[int]:
        poll = select.poll()
        for fd in (signals, self._leaving_fd, *(self._boxes[name].fileno() for name in names if name in self._boxes)):
            if fd >= 0:
                poll.register(fd, select.POLLIN)
        # Rounded up, or the last fraction of a millisecond would spin.
        return {fd for fd, _ in poll.poll(None if seconds is None else int(seconds * 1000) + 1)}

    def _receive_own(self, names: Sequence[str], size: int, deadline: float | None) -> bytes:
        with self._arrived:
            while True:
                for item in self._inbox:
                    if item[0] in names:
                        self._inbox.remove(item)
                        return item[1][:size]
                left = None if deadline is None else deadline - time.monotonic()
                if left is not None and left <= 0:
                    return b""
                self._arrived.wait(left)


def _take(boxes: Sequence[socket.socket], size: int) -> bytes | None:
    for box in boxes:
        try:
            # A longer message is cut, as a read(2) of uWSGI's cuts it.
            return box.recv(size, socket.MSG_DONTWAIT)
        except BlockingIOError:
            # Another mule may have been quicker.
            continue
    return None
