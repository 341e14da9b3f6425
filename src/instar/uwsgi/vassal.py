"""The vassal's end of `UWSGI_EMPEROR_FD`: single bytes both ways (uWSGI core/emperor.c)."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import Callable, MutableMapping

from instar.uwsgi.emperor.link import VARIABLE, News
from instar.uwsgi.emperor.link import Order as EmperorOrder
from instar.uwsgi.letters import Order

#: Of the Emperor alone; a child that found them would speak for us.
_VARIABLES = (VARIABLE, "UWSGI_EMPEROR_FD_CONFIG", "UWSGI_EMPEROR_PROXY")
_ORDERS = {
    EmperorOrder.STOP: Order.STOP_NOW,
    EmperorOrder.RELOAD: Order.RELOAD,
    EmperorOrder.STOP_GRACEFULLY: Order.STOP,
}


class EmperorLink:
    """Owner of the descriptor. Without an Emperor, and after its death, everything is lost in silence: we live on."""

    def __init__(self, sock: socket.socket | None) -> None:
        self._sock = sock
        self._said: set[News] = set()

    @classmethod
    def from_environment(cls, environ: MutableMapping[str, str] | None = None) -> EmperorLink:
        """The link to the Emperor that started us; the variables are removed."""
        environ = os.environ if environ is None else environ
        number, *_ = [environ.pop(name, "") for name in _VARIABLES]
        if not number.isascii() or not number.isdigit():
            return cls(None)
        try:
            os.set_inheritable(int(number), False)
            sock = socket.socket(fileno=int(number))
        except OSError:
            return cls(None)
        sock.setblocking(False)
        return cls(sock)

    @property
    def connected(self) -> bool:
        """Whether there is an Emperor, which starts us again when we end."""
        return self._sock is not None

    def listen(self, act: Callable[[Order], object]) -> None:
        """Obey the Emperor from now on."""
        if self._sock is not None:
            asyncio.get_running_loop().add_reader(self._sock, self._read, act)

    def say(self, news: News) -> None:
        """Tell the Emperor; most of it only once."""
        if self._sock is None or (news in self._said and news is not News.HEARTBEAT):
            return
        self._said.add(news)
        with contextlib.suppress(OSError):
            self._sock.send(bytes([news]), socket.MSG_NOSIGNAL)

    def close(self) -> None:
        """Hang up."""
        if self._sock is not None:
            with contextlib.suppress(RuntimeError):
                asyncio.get_running_loop().remove_reader(self._sock)
            self._sock.close()
            self._sock = None

    def _read(self, act: Callable[[Order], object]) -> None:
        assert self._sock is not None  # noqa: S101 - the reader is removed with it
        try:
            data = self._sock.recv(64)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self.close()
        for byte in data:
            with contextlib.suppress(ValueError):
                act(_ORDERS[EmperorOrder(byte)])
