"""The Emperor's end of NOTIFY_SOCKET (sd_notify(3)), for vassals that are instar's own."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from pathlib import Path

from instar.system.notify import Notice, notice_socket, receive


class Notices:
    """Owner of the socket. The kernel says who sent a notice; one of a stranger is dropped."""

    def __init__(self, path: Path, deliver: Callable[[Notice], None]) -> None:
        """`deliver` takes the descriptors out of a notice that it keeps. Raises OSError."""
        self.path = path
        self._deliver = deliver
        self._sock = notice_socket(path)
        asyncio.get_running_loop().add_reader(self._sock.fileno(), self._read)

    def catch_up(self) -> None:
        """Deliver what has come in: before a vassal that has just ended is started again."""
        self._read()

    def close(self) -> None:
        """Stop listening."""
        asyncio.get_running_loop().remove_reader(self._sock.fileno())
        self._sock.close()
        with contextlib.suppress(OSError):
            self.path.unlink()

    def _read(self) -> None:
        while (notice := receive(self._sock)) is not None:
            self._deliver(notice)
