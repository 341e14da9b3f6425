from __future__ import annotations

import contextlib
import os
import socket
import threading
import time
from pathlib import Path

import pytest
from peer import Answer, read_all, request

from instar.engines.base import EngineOptions, ListenSocket, ServeJob
from instar.engines.composite import Turns
from instar.engines.uwsgi_protocol import Server
from instar.engines.uwsgi_protocol.peers import Peers


def hello(environ, start_response):
    start_response("200 OK", [])
    return [b"hello"]


def listen(host: str = "127.0.0.1") -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    return socket.create_server((host, 0), family=family, dualstack_ipv6=host == "::")


@contextlib.contextmanager
def running(app, *listeners: socket.socket, threads: int = 2, **options):
    sockets = tuple(
        ListenSocket(sock.fileno(), "unix" if sock.family == socket.AF_UNIX else "tcp", "x", "uwsgi")
        for sock in listeners
    )
    job = ServeJob(
        app=app,
        interface="wsgi",
        sockets=sockets,
        options=EngineOptions(threads=threads, **options),
        worker_id=1,
        ready=lambda: None,
        gate=None,  # type: ignore[arg-type]
        must_close=lambda: False,
    )
    server = Server(job, sockets)
    server.start()
    try:
        yield server
    finally:
        server.stop()
        server.join()
        for sock in listeners:
            sock.close()


def connect(listener: socket.socket) -> socket.socket:
    sock = socket.socket(listener.family)
    sock.settimeout(10)
    sock.connect(listener.getsockname())
    return sock


def ask(listener: socket.socket) -> bytes:
    with connect(listener) as sock:
        sock.sendall(request())
        return Answer.parse(read_all(sock)).body


def test_serves_all_its_sockets(tmp_path: Path) -> None:
    unix = socket.socket(socket.AF_UNIX)
    unix.bind(str(tmp_path / "s"))
    unix.listen()
    tcp = listen()
    with running(hello, tcp, unix, threads=1):
        assert [ask(sock) for sock in (tcp, unix, tcp, unix)] == [b"hello"] * 4


def test_a_busy_socket_does_not_starve_another() -> None:
    first, second = listen(), listen()
    order = []

    def app(environ, start_response):
        order.append(environ["HTTP_HOST"])
        return hello(environ, start_response)

    waiting = []
    for sock, name in [(first, "first")] * 5 + [(second, "second")]:
        client = connect(sock)
        client.sendall(request(HTTP_HOST=name))
        waiting.append(client)
    with running(app, first, second, threads=1):
        for client in waiting:
            assert Answer.parse(read_all(client)).body == b"hello"
            client.close()
    assert "second" in order[:2]


def test_threads_serve_at_once_and_no_more_than_there_are() -> None:
    listener, gate, inside = listen(), threading.Event(), threading.Semaphore(0)

    def app(environ, start_response):
        inside.release()
        assert gate.wait(10)
        return hello(environ, start_response)

    with running(app, listener, threads=2):
        clients = [connect(listener) for _ in range(3)]
        for client in clients:
            client.sendall(request())
        assert inside.acquire(timeout=10)
        assert inside.acquire(timeout=10)
        # The third waits in the backlog, where another process could take it.
        assert not inside.acquire(timeout=0.2)
        gate.set()
        for client in clients:
            assert Answer.parse(read_all(client)).body == b"hello"
            client.close()


def test_stop_waits_for_the_request_under_way_and_takes_no_more() -> None:
    listener, gate, inside = listen(), threading.Event(), threading.Event()

    def app(environ, start_response):
        inside.set()
        assert gate.wait(10)
        return hello(environ, start_response)

    with running(app, listener) as server:
        client = connect(listener)
        client.sendall(request())
        assert inside.wait(10)
        server.stop()
        late = connect(listener)
        late.sendall(request())
        gate.set()
        server.join()
        assert Answer.parse(read_all(client)).body == b"hello"
        late.settimeout(0.2)
        with pytest.raises(TimeoutError):
            late.recv(1)
        client.close()
        late.close()


def test_the_sockets_are_never_made_blocking() -> None:
    listener = listen()
    listener.setblocking(False)
    with running(hello, listener):
        assert ask(listener) == b"hello"
        assert not os.get_blocking(listener.fileno())


def test_a_failing_application_costs_no_thread() -> None:
    listener = listen()
    calls = []

    def app(environ, start_response):
        calls.append(1)
        if len(calls) < 5:
            raise SystemExit
        return hello(environ, start_response)

    with running(app, listener, threads=1):
        assert [ask(listener) for _ in range(5)][-1] == b"hello"


def test_a_flood_of_clients_that_say_nothing_holds_it_up_for_the_time_limit_only() -> None:
    listener = listen()
    with running(hello, listener, threads=2, uwsgi_timeout=0.3):
        silent = [connect(listener) for _ in range(4)]
        began = time.monotonic()
        assert ask(listener) == b"hello"
        assert time.monotonic() - began < 5
        for sock in silent:
            sock.close()


# --- who may connect ---


def accepted(host: str, to: str, source: str) -> tuple[socket.socket, socket.socket]:
    with listen(host) as listener:
        client = socket.create_connection((to, listener.getsockname()[1]), source_address=(source, 0))
        return client, listener.accept()[0]


@pytest.mark.parametrize(
    ("host", "to", "source"), [("127.0.0.1", "127.0.0.1", "127.0.0.9"), ("0.0.0.0", "127.0.0.1", "127.0.0.1")]
)
def test_this_host_is_let_in(host: str, to: str, source: str) -> None:
    client, server = accepted(host, to, source)
    with client, server:
        assert Peers(()).admits(server)


def test_unix_sockets_are_let_in() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        assert Peers(()).admits(theirs)


class Connection:
    """The two ends' addresses of a connection between hosts."""

    family = socket.AF_INET

    def __init__(self, peer: str, own: str) -> None:
        self.peer, self.own = peer, own

    def getpeername(self) -> tuple[str, int]:
        return self.peer, 1

    def getsockname(self) -> tuple[str, int]:
        return self.own, 2


@pytest.mark.parametrize(
    ("allow", "peer", "expected"),
    [
        ((), "10.0.0.2", False),
        ((), "10.0.0.1", True),
        ((), "::ffff:10.0.0.1", True),
        (("10.0.0.2",), "10.0.0.2", True),
        (("10.0.0.0/8",), "::ffff:10.9.9.9", True),
        (("10.0.0.0/8",), "11.0.0.1", False),
        (("2001:db8::/32", "unix"), "2001:db8::7", True),
        (("2001:db8::/32",), "2001:db9::7", False),
        (("*",), "192.0.2.1", True),
    ],
)
def test_other_hosts_are_let_in_by_name(allow: tuple[str, ...], peer: str, expected: bool) -> None:
    assert Peers(allow).admits(Connection(peer, "10.0.0.1")) is expected  # type: ignore[arg-type]


# --- one limit for two servers ---


def test_turns_are_shared_and_come_back() -> None:
    turns = Turns(1)
    inside = []

    def app(environ, start_response):
        assert not inside
        inside.append(1)
        kind = environ["kind"]
        if kind == "fails":
            inside.clear()
            raise RuntimeError
        if kind == "list":
            inside.clear()
            return [b"x"]
        return stream()

    def stream():
        yield b"x"
        inside.clear()

    first, second = turns.limit(app), turns.limit(app)
    for kind in ("list", "stream", "fails", "stream", "list"):
        for limited in (first, second):
            if kind == "fails":
                with pytest.raises(RuntimeError):
                    limited({"kind": kind}, None)
            else:
                body = limited({"kind": kind}, None)
                assert list(body) == [b"x"]
                getattr(body, "close", lambda: None)()


def test_a_stream_keeps_its_turn_until_it_is_closed() -> None:
    turns = Turns(1)
    closed = []

    class Body:
        def __iter__(self):
            return iter([b"x"])

        def close(self):
            closed.append(1)

    limited = turns.limit(lambda environ, start_response: Body())
    body = limited({}, None)
    waiting = threading.Thread(target=limited, args=({}, None), daemon=True)
    waiting.start()
    waiting.join(0.1)
    assert waiting.is_alive()
    body.close()
    waiting.join(10)
    assert not waiting.is_alive()
    assert closed == [1]
