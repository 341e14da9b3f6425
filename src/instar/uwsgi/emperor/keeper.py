"""A script: holds copies of the Emperor's descriptors, so that they outlive it.

The real uWSGI ends at once when the other end of UWSGI_EMPEROR_FD closes, and listening sockets that nobody holds are
gone. This process does nothing but hold them; the next Emperor asks for them. Standard library only.

Packets are JSON, a descriptor rides along: {"keep": KEY}, {"drop": KEY}, {"list": 1}, {"quit": 1}. The answer to a list
is {"key": KEY} for each, then {"end": 1}. Keys of the Emperor's ends of links begin with `link:`.
"""

from __future__ import annotations

import array
import contextlib
import json
import os
import select
import signal
import socket
import sys
import time

#: Without an Emperor, and without a vassal whose link is open, it ends after so many seconds.
PATIENCE = 60.0
_LONGEST = 4096
_TICK = 1000


class Keeper:
    """Owner of the copies."""

    def __init__(self, listener: socket.socket) -> None:
        self._listener = listener
        self._clients: dict[int, socket.socket] = {}
        self._held: dict[str, int] = {}
        self._needed = time.monotonic()
        self._quit = False

    def run(self) -> None:
        """Serve until told to quit, or until nobody needs it any more."""
        while not self._quit and time.monotonic() - self._needed < PATIENCE:
            poll = select.poll()
            for sock in (self._listener, *self._clients.values()):
                poll.register(sock.fileno(), select.POLLIN)
            for fd, _ in poll.poll(_TICK):
                if fd == self._listener.fileno():
                    client, _ = self._listener.accept()
                    self._clients[client.fileno()] = client
                elif fd in self._clients:
                    self._read(self._clients[fd])
            if self._clients or self._links_open():
                self._needed = time.monotonic()

    def _read(self, client: socket.socket) -> None:
        data, fds = receive(client)
        if not data:
            self._clients.pop(client.fileno(), None)
            client.close()
            return
        try:
            message = json.loads(data)
            self._obey(client, message, fds)
        except (ValueError, KeyError, TypeError, AttributeError, OSError):
            for fd in fds:
                os.close(fd)

    def _obey(self, client: socket.socket, message: dict[str, str], fds: list[int]) -> None:
        if "keep" in message:
            self._drop(message["keep"])
            self._held[message["keep"]] = fds.pop()
        elif "drop" in message:
            self._drop(message["drop"])
        elif "list" in message:
            self._hear_out(client)
            for key, fd in self._held.items():
                send(client, {"key": key}, [fd])
            send(client, {"end": "1"})
        elif "quit" in message:
            self._quit = True

    def _hear_out(self, heir: socket.socket) -> None:
        """What an Emperor said before it died counts, however late it is read."""
        for client in [item for item in self._clients.values() if item is not heir]:
            poll = select.poll()
            poll.register(client.fileno(), select.POLLIN)
            while client.fileno() in self._clients and poll.poll(0):
                self._read(client)

    def _drop(self, key: str) -> None:
        fd = self._held.pop(key, None)
        if fd is not None:
            os.close(fd)

    def _links_open(self) -> bool:
        """Whether a vassal lives that can be given orders."""
        poll = select.poll()
        links = [fd for key, fd in self._held.items() if key.startswith("link:")]
        for fd in links:
            poll.register(fd, 0)
        return len(poll.poll(0)) < len(links)


def send(sock: socket.socket, message: dict[str, str], fds: list[int] | None = None) -> None:
    """One packet. Raises OSError."""
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
    sock.sendmsg([json.dumps(message).encode()], rights)


def receive(sock: socket.socket) -> tuple[bytes, list[int]]:
    """One packet and its descriptors; empty at the end."""
    space = socket.CMSG_SPACE(4)
    try:
        data, ancillary, _, _ = sock.recvmsg(_LONGEST, space, socket.MSG_CMSG_CLOEXEC)
    except OSError:
        return b"", []
    fds = array.array("i")
    for level, kind, raw in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            fds.frombytes(raw[: len(raw) - len(raw) % fds.itemsize])
    return data, fds.tolist()


def main() -> None:
    """`keeper.py FD`: the listening socket."""
    for sig in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        # A service manager that stops everything ends it when it has no vassal left.
        signal.signal(sig, signal.SIG_IGN)
    with contextlib.suppress(KeyboardInterrupt):
        Keeper(socket.socket(fileno=int(sys.argv[1]))).run()


if __name__ == "__main__":
    main()
