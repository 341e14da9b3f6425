"""Survey, linger and quiesce on sockets of this process."""

from __future__ import annotations

import os
import select
import socket
import threading
import time

import pytest

from instar.runtime.linger import Linger
from instar.runtime.quiesce import quiesce
from instar.runtime.survey import Survey, count_connections


def listener(kind, tmp_path):
    if kind == "unix":
        sock = socket.socket(socket.AF_UNIX)
        sock.bind(str(tmp_path / "s"))
    else:
        family = socket.AF_INET6 if ":" in kind else socket.AF_INET
        sock = socket.socket(family)
        if kind == "::":
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        sock.bind((kind, 0))
    sock.listen(64)
    return sock


def dial(sock, host=None):
    client = socket.socket(socket.AF_INET if host == "127.0.0.1" else sock.family)
    client.settimeout(5)
    client.connect(sock.getsockname() if sock.family == socket.AF_UNIX else (host or "::1", sock.getsockname()[1]))
    return client


CASES = [("127.0.0.1", "127.0.0.1"), ("0.0.0.0", "127.0.0.1"), ("::1", "::1"), ("::", "127.0.0.1"), ("unix", None)]


@pytest.fixture(params=CASES, ids=[case[0] for case in CASES])
def pair(request, tmp_path):
    with listener(request.param[0], tmp_path) as sock:
        yield sock, lambda: dial(sock, request.param[1])


def test_survey_counts_accepted_open_connections_once(pair):
    sock, connect = pair
    survey = Survey([sock])
    assert survey.count() == 0
    with connect(), connect() as second:
        # The client ends are in this process too, but their local address is another.
        a, b = sock.accept()[0], sock.accept()[0]
        extra = os.dup(a.fileno())
        assert survey.count() == count_connections([sock.fileno()]) == 2
        os.close(extra)
        if sock.family != socket.AF_UNIX:
            second.close()
            deadline = time.monotonic() + 5
            while survey.count() != 1 and time.monotonic() < deadline:
                time.sleep(0.01)
            assert survey.count() == 1
        a.close()
        b.close()
    assert survey.count() == 0


def test_survey_is_cheap_with_many_descriptors(tmp_path):
    with listener("127.0.0.1", tmp_path) as sock:
        ends = [socket.socketpair() for _ in range(400)]
        start = time.perf_counter()
        assert count_connections([sock]) == 0
        spent = time.perf_counter() - start
        for a, b in ends:
            a.close()
            b.close()
    print(f"{spent / 800 * 1e6:.1f} us for each descriptor")
    assert spent < 0.2


@pytest.mark.parametrize("registered", [True, False])
def test_quiesce(pair, registered):
    sock, connect = pair
    sock.setblocking(False)
    # Another holder, as the zygote is.
    pid = os.fork()
    if pid == 0:
        time.sleep(30)
        os._exit(0)
    copy = os.dup(sock.fileno())
    epoll = select.epoll()
    if registered:
        epoll.register(sock, select.EPOLLIN)
    other = os.dup(sock.fileno())
    name = sock.getsockname()
    survey = Survey([sock])
    keep = os.open("/dev/null", os.O_RDONLY)
    try:
        client = connect()
        assert quiesce([sock]) == 3
        assert epoll.poll(0.05) == []
        with pytest.raises(BlockingIOError):
            sock.accept()
        assert quiesce([sock]) == 0
        # Its address is remembered for later surveys.
        assert count_connections([sock]) == 0 and survey.count() == 0
        if registered:
            epoll.modify(sock, select.EPOLLIN)
            epoll.unregister(sock)
        assert name
        client.close()
    finally:
        os.kill(pid, 9)
        os.waitpid(pid, 0)
        for fd in (copy, other, keep):
            os.close(fd)


def test_quiesce_moves_the_registration_with_its_data(tmp_path):
    """A server's epoll data (not always the descriptor's number) survives the exchange."""
    with listener("127.0.0.1", tmp_path) as sock, select.epoll() as epoll:
        epoll.register(sock, select.EPOLLIN | select.EPOLLET)
        before = open(f"/proc/self/fdinfo/{epoll.fileno()}").read()  # noqa: SIM115
        quiesce([sock])
        after = open(f"/proc/self/fdinfo/{epoll.fileno()}").read()  # noqa: SIM115
    pick = lambda text: [line.split()[:6] for line in text.splitlines() if line.startswith("tfd")]  # noqa: E731
    assert pick(before) == pick(after) != []


def test_linger_keeps_the_connection_until_the_client_is_done(tmp_path):
    with listener("127.0.0.1", tmp_path) as sock:
        client = dial(sock, "127.0.0.1")
        server = sock.accept()[0]
        linger = Linger([sock])
        linger.hold()
        linger.hold()
        server.sendall(b"last words")
        server.close()
        # Bytes that meet a closed socket would draw a RST, and the client would lose "last words".
        client.sendall(b"late")
        time.sleep(0.15)
        client.sendall(b"later")
        assert client.recv(100) == b"last words"
        assert client.recv(100) == b"", "the server's close is passed on while the descriptor is held"
        threading.Timer(0.2, client.close).start()
        start = time.monotonic()
        linger.release(2.0)
        assert 0.1 < time.monotonic() - start < 1.0


def test_linger_gives_up_at_its_limit(tmp_path):
    with listener("127.0.0.1", tmp_path) as sock:
        client = dial(sock, "127.0.0.1")
        server = sock.accept()[0]
        linger = Linger([sock])
        linger.hold()
        server.close()
        start = time.monotonic()
        linger.release(0.3)
        assert 0.25 < time.monotonic() - start < 1.0
        client.close()


def test_linger_without_connections_returns_at_once(tmp_path):
    with listener("127.0.0.1", tmp_path) as sock:
        linger = Linger([sock])
        linger.hold()
        start = time.monotonic()
        linger.release(5)
        assert time.monotonic() - start < 0.5
