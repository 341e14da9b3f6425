"""One connection from its first byte to its last: one request, one response."""

from __future__ import annotations

import contextlib
import dataclasses
import socket
import struct
import sys
import traceback
from typing import Any

from instar.engines.uwsgi_protocol import environ
from instar.engines.uwsgi_protocol.body import Body, as_input, discard
from instar.engines.uwsgi_protocol.packet import (
    LATE,
    MANAGE_PATH_INFO,
    PING,
    PONG,
    WSGI,
    GoneError,
    Head,
    PeerLostError,
    RefusedError,
    read_head,
)
from instar.engines.uwsgi_protocol.response import Response

_RESET_ON_CLOSE = struct.pack("ii", 1, 0)


@dataclasses.dataclass(frozen=True)
class Limits:
    """What a peer may do; seconds and bytes."""

    buffer_size: int
    timeout: float


@dataclasses.dataclass(frozen=True)
class Requests:
    """Serves requests with one application. Any number of threads may use it."""

    app: Any
    limits: Limits
    multithread: bool
    multiprocess: bool

    def serve(self, sock: socket.socket) -> None:
        """Serve one connection; the caller closes it. Raises nothing but what ends the process."""
        try:
            head = read_head(sock, limit=self.limits.buffer_size, timeout=self.limits.timeout)
            self._dispatch(sock, head)
        except RefusedError as refused:
            say(f"refused a request: {refused}")
            with contextlib.suppress(OSError):
                Response(sock, "", self.limits.timeout).fail(refused.status)
                # A body may be on its way, and would cost the peer the answer.
                if refused.status != LATE:
                    discard(sock, None, self.limits.timeout)
        except (GoneError, OSError):
            # Its client gave up, or a load balancer looked whether anybody listens.
            pass
        except Exception:
            # A mistake of ours: the thread is needed for the next request.
            _report("cannot serve a request")

    def _dispatch(self, sock: socket.socket, head: Head) -> None:
        if head.modifier1 == PING:
            sock.sendall(PONG)
        elif head.modifier1 not in (WSGI, MANAGE_PATH_INFO):
            raise RefusedError("501 Not Implemented", f"its modifier1 is {head.modifier1}, which is not WSGI")
        else:
            self._request(sock, head)

    def _request(self, sock: socket.socket, head: Head) -> None:
        body = Body(sock, head, self.limits.timeout)
        env = environ.build(head, as_input(body), multithread=self.multithread, multiprocess=self.multiprocess)
        response = Response(sock, env["REQUEST_METHOD"], self.limits.timeout)
        if self._run(sock, env, response):
            body.drain()

    def _run(self, sock: socket.socket, env: dict[str, Any], response: Response) -> bool:
        """Whether the peer got a whole response."""
        what = f"{env['REQUEST_METHOD']} {env.get('PATH_INFO', '')!r}"
        status = "500 Internal Server Error"
        try:
            self._respond(env, response)
            return True
        except PeerLostError:
            status = LATE
        except BaseException:
            # Also SystemExit: an application's request must not end a thread that the next one needs.
            _report(f"the application failed on {what}")
        if response.begun:
            _reset(sock)
            return False
        response.fail(status)
        return True

    def _respond(self, env: dict[str, Any], response: Response) -> None:
        result = self.app(env, response.start)
        try:
            response.send(result)
        finally:
            _close(result)


def _close(result: Any) -> None:
    """What goes wrong here can't change the response any more."""
    close = getattr(result, "close", None)
    try:
        if close is not None:
            close()
    except BaseException:
        _report("the application failed when its response was closed")


def _report(text: str) -> None:
    say(f"{text}\n{traceback.format_exc().rstrip()}")


def say(text: str) -> None:
    """Not through `logging`: an application's set-up of it may silence loggers that it does not know."""
    sys.stderr.write(f"instar: {text}\n")
    sys.stderr.flush()


def _reset(sock: socket.socket) -> None:
    """Let a peer that can't know the length see that this was not the end (TCP only)."""
    with contextlib.suppress(OSError):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
