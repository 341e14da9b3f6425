"""The zerg protocol with the real uWSGI at one end, and with answers that are none."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from instar.uwsgi import zerg
from instar.uwsgi.zerg import ZergError

UWSGI = next(
    (found for found in (shutil.which("uwsgi", path=str(Path(sys.executable).parent)), shutil.which("uwsgi")) if found),
    None,
)
needs_uwsgi = pytest.mark.skipif(
    UWSGI is None, reason="needs the real uWSGI: pip install instar[uwsgi], with a compiler"
)


def serve(path: Path, answer) -> threading.Thread:
    """Answer every connection with `answer(connection)` until the test ends."""
    server = socket.socket(socket.AF_UNIX)
    server.bind(str(path))
    server.listen()

    def run() -> None:
        while True:
            with server.accept()[0] as connection, contextlib.suppress(OSError):
                answer(connection)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    return thread


def listeners(count: int) -> list[socket.socket]:
    return [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]


def open_descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def nothing_leaks(before: int) -> None:
    """The thread that answers closes its connection a moment later."""
    end = time.monotonic() + 10
    while open_descriptors() > before:
        assert time.monotonic() < end, "descriptors leaked"
        time.sleep(0.01)


@pytest.mark.parametrize("count", [1, 8, 9, 40])
def test_all_sockets_arrive_close_on_exec(tmp_path, count) -> None:
    pool = listeners(count)
    serve(tmp_path / "pool", lambda connection: zerg.hand_out(connection, pool))
    found = zerg.attach(tmp_path / "pool")
    assert [sock.getsockname() for sock in found] == [sock.getsockname() for sock in pool]
    assert not any(os.get_inheritable(sock.fileno()) for sock in found)
    for sock in [*found, *pool]:
        sock.close()


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (b"", "it is none"),
        (b"HTTP/1.1 400 Bad Request\r\n", "it is none"),
        (b"uwsgi-zerg", "it is none"),
        (b"uwsgi-zerg\0\0\0\0", "it has 0 sockets"),
        (b"uwsgi-zerg\x02\0\0\0", "it sent 0 of 2"),
        (b"uwsgi-zerg\xff\xff\xff\xff", "it has -1 sockets"),
        (b"uwsgi-zerg\xff\xff\xff\x7f", "sockets"),
    ],
)
def test_an_answer_that_is_none(tmp_path, answer, why) -> None:
    serve(tmp_path / "pool", lambda connection: connection.sendall(answer))
    before = open_descriptors()
    with pytest.raises(ZergError, match=why):
        zerg.attach(tmp_path / "pool")
    nothing_leaks(before)


def test_a_socket_that_does_not_listen_is_refused_and_nothing_leaks(tmp_path) -> None:
    with socket.socket() as plain, socket.create_server(("127.0.0.1", 0)) as good:
        serve(tmp_path / "pool", lambda connection: zerg.hand_out(connection, [good, plain]))
        before = open_descriptors()
        with pytest.raises(ZergError, match="does not listen"):
            zerg.attach(tmp_path / "pool")
        nothing_leaks(before)


def test_a_pool_that_does_not_answer(tmp_path) -> None:
    with socket.socket(socket.AF_UNIX) as silent:
        silent.bind(str(tmp_path / "pool"))
        silent.listen()
        with pytest.raises(ZergError, match="does not answer"):
            zerg.attach(tmp_path / "pool", timeout=0.1)


def test_no_pool(tmp_path) -> None:
    with pytest.raises(ZergError, match="start the pool first"):
        zerg.attach(tmp_path / "pool")
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(tmp_path / "pool"))
    with pytest.raises(ZergError, match="start it again"):
        zerg.attach(tmp_path / "pool", wait=0.15)


def test_a_pool_that_starts_later_is_waited_for(tmp_path) -> None:
    pool = listeners(1)
    start = threading.Timer(0.3, lambda: serve(tmp_path / "pool", lambda connection: zerg.hand_out(connection, pool)))
    start.start()
    [found] = zerg.attach(tmp_path / "pool", wait=20)
    assert found.getsockname() == pool[0].getsockname()
    found.close()
    pool[0].close()


@needs_uwsgi
def test_attach_to_the_pool_of_the_real_uwsgi(tmp_path) -> None:
    addresses = [f"127.0.0.1:{port}" for port in free_ports(9)] + [str(tmp_path / "app.sock")]
    argv = [UWSGI, "--master", "--zerg-pool", f"{tmp_path}/pool:{','.join(addresses)}"]
    with (tmp_path / "log").open("wb") as log, subprocess.Popen(argv, stdout=log, stderr=log) as pool:
        try:
            found = zerg.attach(tmp_path / "pool", wait=20)
        finally:
            pool.terminate()
            pool.kill()
    names = [sock.getsockname() for sock in found]
    assert [name if isinstance(name, str) else f"{name[0]}:{name[1]}" for name in names] == addresses
    for sock in found:
        sock.close()


@needs_uwsgi
@pytest.mark.parametrize("count", [2, 10])
def test_the_real_uwsgi_attaches_to_ours(tmp_path, count) -> None:
    (tmp_path / "app.py").write_text(
        "def application(environ, start_response):\n    start_response('200 OK', [])\n    return [b'here']\n"
    )
    pool = listeners(count)
    for sock in pool:
        sock.setblocking(False)
    serve(tmp_path / "pool", lambda connection: zerg.hand_out(connection, pool))
    argv = [UWSGI, "--master", "--zerg", f"{tmp_path}/pool", "--protocol", "http", "--wsgi-file", f"{tmp_path}/app.py"]
    with (tmp_path / "log").open("wb") as log, subprocess.Popen([*argv, "--need-app"], stdout=log, stderr=log) as child:
        try:
            answers = [ask(sock.getsockname()) for sock in pool]
        finally:
            child.kill()
    assert all(b"200 OK" in answer and answer.endswith(b"here") for answer in answers), (tmp_path / "log").read_text()


def ask(address) -> bytes:
    """One HTTP request; the backlog holds it until somebody accepts."""
    with socket.create_connection(address, timeout=20) as client:
        client.sendall(b"GET / HTTP/1.0\r\n\r\n")
        parts = []
        while part := client.recv(1000):
            parts.append(part)
    return b"".join(parts)


def free_ports(count: int) -> list[int]:
    found = listeners(count)
    ports = [sock.getsockname()[1] for sock in found]
    for sock in found:
        sock.close()
    return ports
