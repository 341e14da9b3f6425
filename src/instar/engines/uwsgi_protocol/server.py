"""Threads that accept connections and serve them, one request each."""

from __future__ import annotations

import errno
import os
import select
import socket
import threading
import time
from collections.abc import Sequence

from instar.engines.base import ListenSocket, ServeJob
from instar.engines.uwsgi_protocol.connection import Limits, Requests, say
from instar.engines.uwsgi_protocol.peers import Peers

#: Out of descriptors or memory: seconds until accepting is tried again.
_PAUSE = 0.1
_EXHAUSTED = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)


class Server:
    """Serves `sockets` from `start` to `stop`.

    One thread at a time waits for a connection and then serves it, while the next one waits: a connection wakes one
    thread, and is accepted only when there is one to serve it, so that a busy process leaves it to another.
    """

    def __init__(self, job: ServeJob, sockets: Sequence[ListenSocket]) -> None:
        options = job.options
        threads = max(1, options.threads)
        limits = Limits(options.uwsgi_buffer_size, options.uwsgi_timeout)
        app = job.app if job.uwsgi_app is None else job.uwsgi_app
        self._requests = Requests(app, limits, multithread=threads > 1, multiprocess=job.multiprocess)
        self._peers = Peers(options.uwsgi_allow)
        self._threads = [
            threading.Thread(target=self._work, name=f"uwsgi-{number}", daemon=True) for number in range(1, threads + 1)
        ]
        self._turn = threading.Lock()
        self._stopping = False
        #: Its write end is closed to wake whoever waits.
        self._wake, self._waker = os.pipe2(os.O_CLOEXEC)
        self._poll = select.poll()
        self._poll.register(self._wake, select.POLLIN)
        # Copies of our own: the flag O_NONBLOCK, which all holders share, is only ever set.
        self._listeners = [socket.socket(fileno=os.dup(item.fd)) for item in sockets]
        for listener in self._listeners:
            os.set_blocking(listener.fileno(), False)
            self._poll.register(listener, select.POLLIN)

    def start(self) -> None:
        """Begin to accept. Returns at once."""
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Accept no more; requests under way go on. A signal handler may call it, also before `start`."""
        if not self._stopping:
            self._stopping = True
            os.close(self._waker)

    def join(self) -> None:
        """Wait for the last request."""
        for thread in self._threads:
            if thread.ident is not None:
                thread.join()

    def _work(self) -> None:
        while (connection := self._next()) is not None:
            with connection:
                if self._admitted(connection):
                    self._requests.serve(connection)

    def _admitted(self, connection: socket.socket) -> bool:
        try:
            if self._peers.admits(connection):
                return True
            say(f"turned {connection.getpeername()[0]} away: it is not in [web.uwsgi] allow")
        except OSError:
            pass
        return False

    def _next(self) -> socket.socket | None:
        """The next connection; None when it is time to leave."""
        with self._turn:
            while not self._stopping:
                ready = {fd for fd, _ in self._poll.poll()}
                if self._wake in ready:
                    break
                for place, listener in enumerate(self._listeners):
                    if listener.fileno() in ready and (connection := _accept(listener)):
                        # The others come first next time.
                        self._listeners.append(self._listeners.pop(place))
                        return connection
        return None


def _accept(listener: socket.socket) -> socket.socket | None:
    try:
        return listener.accept()[0]
    except OSError as error:
        # Most often another process was faster (EAGAIN).
        if error.errno in _EXHAUSTED:
            say(f"cannot accept a connection: {error.strerror}")
            time.sleep(_PAUSE)
        return None
