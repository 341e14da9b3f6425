"""The Emperor's end of `UWSGI_EMPEROR_FD`: single bytes both ways (uWSGI core/emperor.c)."""

from __future__ import annotations

import asyncio
import contextlib
import enum
import socket
from collections.abc import Callable

#: What the vassal finds its end by.
VARIABLE = "UWSGI_EMPEROR_FD"


class Order(enum.IntEnum):
    """From the Emperor."""

    STOP = 0
    RELOAD = 1
    STOP_GRACEFULLY = 2


class News(enum.IntEnum):
    """From the vassal."""

    SPAWNED = 1
    SEND_CONFIG = 2
    ACCEPTING = 5
    #: It has answered its first request.
    LOYAL = 17
    STOPPING = 22
    HEARTBEAT = 26
    SOS = 30


class Link:
    """Owner of the Emperor's end. `on_news(None)`: the vassal closed its end."""

    def __init__(self, sock: socket.socket, on_news: Callable[[News | None], None]) -> None:
        sock.setblocking(False)
        self._sock = sock
        self._on_news = on_news
        asyncio.get_running_loop().add_reader(sock.fileno(), self._read)

    @property
    def socket(self) -> socket.socket:
        """The Emperor's end."""
        return self._sock

    @property
    def is_open(self) -> bool:
        """Whether orders can be sent."""
        return self._sock.fileno() >= 0

    def send(self, order: Order) -> bool:
        """Send a byte; False when the vassal can't be reached by it."""
        if not self.is_open:
            return False
        try:
            return self._sock.send(bytes([order])) == 1
        except OSError:  # it closed its end, or has not read for very long
            return False

    def close(self) -> None:
        """Let go. A real uWSGI that lives ends at once: for it the Emperor is lost."""
        if self.is_open:
            asyncio.get_running_loop().remove_reader(self._sock.fileno())
            self._sock.close()

    def _read(self) -> None:
        try:
            data = self._sock.recv(64)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        for byte in data:
            with contextlib.suppress(ValueError):  # a byte of a later uWSGI
                self._on_news(News(byte))
        if not data:
            asyncio.get_running_loop().remove_reader(self._sock.fileno())
            self._on_news(None)
