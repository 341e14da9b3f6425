"""What every engine has to do: get ready, answer, drain, stop gracefully, keep quiet when quiesced."""

from __future__ import annotations

import json
import signal
import socket
import threading
import time
from pathlib import Path

import engine_apps
import engine_harness as harness
import pytest
from engine_harness import NONCE, request, until

from instar.engines.base import EngineOptions
from instar.runtime.scoreboard import Column, Drain, State

WSGI = [("granian", None), ("uvicorn", None), ("gunicorn", "gthread"), ("gunicorn", "sync")]
ASGI = [("granian", None), ("uvicorn", None), ("gunicorn", "asgi")]
ALL = [(name, "wsgi", cls) for name, cls in WSGI] + [(name, "asgi", cls) for name, cls in ASGI]
KEEPING = [item for item in ALL if item[2] != "sync"]
ids = lambda item: "-".join(filter(None, item))  # noqa: E731


def app_of(interface):
    return engine_apps.wsgi if interface == "wsgi" else engine_apps.asgi


def options(cls=None, **kwargs):
    return EngineOptions(threads=4, worker_class=cls, **kwargs)


@pytest.fixture(params=ALL, ids=ids)
def engine(request):
    return request.param


@pytest.fixture(params=KEEPING, ids=ids)
def keeping(request):
    """Engines that keep connections open."""
    return request.param


@pytest.mark.parametrize("kind", ["tcp", "unix"])
def test_answers_counts_and_stops(start, engine, kind):
    name, interface, cls = engine
    worker = start(name, interface, app_of(interface), kind=kind, options=options(cls))
    status, _, body = worker.get("/")
    assert (status, body) == (200, b"ok")
    assert worker.get("/fail")[0] == 503
    assert worker.get("/raise")[0] == 500
    assert worker.get("/stream")[2] == b"x" * 10000
    connection = worker.http()
    assert request(connection, "POST", "/echo", body=b"hello")[2] == b"hello"
    assert request(worker.http(), "HEAD", "/")[2] == b""
    until(lambda: worker.get_state(Column.IN_FLIGHT) == 0)
    assert worker.get_state(Column.REQUESTS) == 6
    assert worker.get_state(Column.ERRORS) == 2
    assert json.loads(worker.get("/worker")[2]) == ["main.a.1", 1, 3, False]
    assert worker.stop() == 0


@pytest.mark.parametrize("item", KEEPING, ids=ids)
def test_tls(start, authority, client_tls, item):
    name, interface, cls = item
    tls_options = options(cls, tls_cert=authority[1], tls_key=authority[2])
    worker = start(name, interface, app_of(interface), options=tls_options, tls=client_tls)
    assert worker.get("/")[2] == b"ok"
    found = json.loads(worker.get("/env")[2])
    assert found.get("wsgi.url_scheme", found.get("scheme")) == "https"
    worker.drain(Drain.CLOSE)
    assert worker.get("/")[1]["connection"] == "close"
    assert worker.stop() == 0


def test_draining_closes_with_the_next_response(start, keeping):
    name, interface, cls = keeping
    worker = start(name, interface, app_of(interface), options=options(cls))
    connection = worker.http()
    for path in ("/", "/", "/stream"):
        status, headers, _ = request(connection, "GET", path)
        assert status == 200 and headers.get("connection", "").lower() != "close"
        assert connection.sock is not None
    worker.drain(Drain.CLOSE)
    sock = connection.sock
    status, headers, body = request(connection, "GET", "/")
    assert (status, body, headers["connection"].lower()) == (200, b"ok", "close")
    assert connection.sock is None or sock.recv(1) == b""
    _, headers, body = worker.get("/stream")
    assert headers["connection"].lower() == "close" and len(body) == 10000
    assert worker.stop() == 0


def test_sigterm_lets_a_request_finish(start, engine):
    name, interface, cls = engine
    worker = start(name, interface, app_of(interface), options=options(cls))
    connection = worker.http()
    connection.request("GET", "/slow?s=0.6")
    until(lambda: worker.get_state(Column.IN_FLIGHT) == 1)
    worker.signal(signal.SIGTERM)
    assert connection.getresponse().read() == b"slow"
    assert worker.wait() == 0


@pytest.mark.parametrize(
    "item", [("granian", "asgi", None), ("uvicorn", "asgi", None), ("gunicorn", "asgi", "asgi")], ids=ids
)
def test_lifespan_shutdown_runs(start, item, tmp_path, monkeypatch):
    monkeypatch.setenv("ENGINE_TEST_SHUTDOWN", str(tmp_path / "mark"))
    worker = start(item[0], "asgi", engine_apps.asgi, options=options(item[2]))
    worker.get("/")
    assert worker.stop() == 0
    assert (tmp_path / "mark").read_text() == "done"


@pytest.mark.parametrize("item", ASGI, ids=ids)
def test_failing_startup_is_an_exit_code(start, item):
    worker = start(item[0], "asgi", engine_apps.asgi_broken_start, options=options(item[1]), wait_ready=False)
    assert worker.wait() == 3
    assert worker.get_state(Column.STATE) != State.READY


@pytest.mark.parametrize("item", ASGI, ids=ids)
def test_application_without_lifespan(start, item):
    worker = start(item[0], "asgi", engine_apps.asgi_plain, options=options(item[1]))
    assert worker.get("/")[2] == b"ok"
    assert worker.stop() == 0


def test_probe(start, engine):
    name, interface, cls = engine
    worker = start(name, interface, app_of(interface), options=options(cls), row=1)
    status, headers, body = worker.get("/env", {"X-Instar-Probe": NONCE})
    assert status == 200 and b"secret" not in body
    assert (headers["x-instar-generation"], headers["x-instar-worker"]) == ("3", "1")
    assert worker.get_state(Column.REQUESTS) == 0
    status, headers, body = worker.get("/env", {"X-Instar-Probe": "7f3a-secrex"})
    assert "x-instar-worker" not in headers and b"secrex" not in body
    assert worker.get_state(Column.REQUESTS) == 1


@pytest.mark.parametrize("item", ALL, ids=ids)
def test_event_stream_ends_properly(start, item):
    name, interface, cls = item
    worker = start(name, interface, app_of(interface), options=options(cls))
    sock = worker.connect()
    sock.sendall(b"GET /sse HTTP/1.1\r\nHost: x\r\n\r\n")
    data = b""
    while b"data: 3" not in data:
        data += sock.recv(65536)
    assert worker.get_state(Column.LONG_LIVED) == 1
    worker.drain(Drain.CLOSE)
    assert worker.get_state(Column.LONG_LIVED) == 1
    worker.drain(Drain.END_STREAMS)
    sock.settimeout(3)
    while chunk := sock.recv(65536):
        data += chunk
        if data.endswith(b"0\r\n\r\n"):
            break
    assert data.endswith(b"0\r\n\r\n")
    until(lambda: worker.get_state(Column.LONG_LIVED) == 0 and worker.get_state(Column.IN_FLIGHT) == 0)
    assert worker.get_state(Column.ERRORS) == 0
    assert worker.stop() == 0


@pytest.mark.parametrize("item", ASGI, ids=ids)
def test_other_streams_are_not_cut(start, item):
    worker = start(item[0], "asgi", engine_apps.asgi, options=options(item[1]))
    connection = worker.http()
    connection.request("GET", "/stream?n=20&s=0.05")
    response = connection.getresponse()
    worker.drain(Drain.END_STREAMS)
    assert len(response.read()) == 20000


def test_client_that_leaves_is_not_in_flight_for_ever(start, engine):
    name, interface, cls = engine
    worker = start(name, interface, app_of(interface), options=options(cls))
    # uvicorn's own WSGI adapter does not notice that a client leaves, and produces the whole of it.
    unseen = interface == "wsgi" and name == "uvicorn"
    for path in ("/sse", f"/stream?n={1_000 if unseen else 100_000}"):
        sock = worker.connect()
        sock.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        assert sock.recv(100)
        sock.close()
    if interface == "asgi" or unseen:
        # The ASGI application sleeps meanwhile.
        worker.drain(Drain.END_STREAMS)
    until(lambda: worker.get_state(Column.IN_FLIGHT) == 0, 30, "a request is still in flight")
    assert worker.get_state(Column.LONG_LIVED) == 0
    assert worker.get_state(Column.ERRORS) == 0


def settle(old, new, limit=20):
    """Wait until the signal has acted: the new worker answers 40 requests in a row and the old one none."""
    end = time.monotonic() + limit
    while time.monotonic() < end:
        taken, served = old.get_state(Column.REQUESTS), new.get_state(Column.REQUESTS)
        while new.get_state(Column.REQUESTS) < served + 40 and time.monotonic() < end:
            time.sleep(0.01)
        if old.get_state(Column.REQUESTS) == taken:
            return
    raise AssertionError(f"the old worker still accepts {limit} s after the signal")


@pytest.mark.parametrize("kind", ["tcp", "unix"])
def test_quiesced_worker_accepts_nothing_and_idles(start, engine, kind, tmp_path):
    name, interface, cls = engine
    sock = harness.listen_unix(tmp_path / "shared.sock") if kind == "unix" else harness.listen_tcp()
    old = start(name, interface, app_of(interface), socks=(sock,), options=options(cls))
    board = old.board
    open_connection = old.http()
    assert request(open_connection, "GET", "/pid")[2] == str(old.pid).encode()
    new = start(name, interface, app_of(interface), socks=(sock,), options=options(cls), board=board, row=2)
    failures, stop = [], threading.Event()

    def load():
        while not stop.is_set():
            try:
                assert old.get("/pid")[0] == 200
            except Exception as error:
                failures.append(repr(error))

    threads = [threading.Thread(target=load) for _ in range(3)]
    for thread in threads:
        thread.start()
    try:
        time.sleep(0.3)
        old.signal(signal.SIGUSR2)
        settle(old, new)
        before, cpu, start_time = old.get_state(Column.REQUESTS), old.cpu(), time.monotonic()
        served = new.get_state(Column.REQUESTS)
        time.sleep(1.5)
        assert old.get_state(Column.REQUESTS) == before
        assert new.get_state(Column.REQUESTS) > served + 20
        share = (old.cpu() - cpu) / (time.monotonic() - start_time)
    finally:
        stop.set()
        for thread in threads:
            thread.join()
        sock.close()
    print(f"quiesced CPU share: {share:.3f}")
    assert failures == []
    assert share < 0.05
    if cls != "sync":
        assert request(open_connection, "GET", "/pid")[2] == str(old.pid).encode()
    assert old.stop() == 0
    assert new.stop() == 0


def test_several_listeners(start, engine, tmp_path):
    name, interface, cls = engine
    socks = (harness.listen_tcp(), harness.listen_unix(tmp_path / "a.sock"), harness.listen_tcp("::1"))
    worker = start(name, interface, app_of(interface), socks=socks, options=options(cls))
    for index in range(3):
        assert worker.get("/", index=index)[2] == b"ok"
    assert worker.stop() == 0
    for sock in socks:
        sock.close()


class PipeGate:
    def __init__(self):
        self.read, self.write = socket.socketpair()

    def wait(self):
        self.read.recv(1)

    async def wait_async(self):
        import asyncio

        await asyncio.get_running_loop().run_in_executor(None, self.read.recv, 1)


def test_closed_gate_holds_connections_back(start, engine):
    name, interface, cls = engine
    gate = PipeGate()
    worker = start(name, interface, app_of(interface), options=options(cls), gate=gate)
    sock = worker.connect()
    sock.sendall(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    assert not harness.readable(sock, 0.5)
    gate.write.send(b"x")
    assert harness.readable(sock, 5) and sock.recv(4096).startswith(b"HTTP/1.1 200")
    assert worker.stop() == 0


@pytest.mark.parametrize("item", KEEPING, ids=ids)
def test_encrypted_key(start, authority, client_tls, item, tmp_path):
    from cryptography.hazmat.primitives import serialization as pem

    key = pem.load_pem_private_key(Path(authority[2]).read_bytes(), None)
    secret = pem.BestAvailableEncryption(b"open sesame")
    (tmp_path / "key.pem").write_bytes(key.private_bytes(pem.Encoding.PEM, pem.PrivateFormat.PKCS8, secret))
    name, interface, cls = item
    tls_options = options(cls, tls_cert=authority[1], tls_key=str(tmp_path / "key.pem"), tls_key_password="open sesame")
    worker = start(name, interface, app_of(interface), options=tls_options, tls=client_tls)
    assert worker.get("/")[2] == b"ok"
    assert worker.stop() == 0


def test_granian_tells_of_an_unusable_key_before_the_fork(authority, tmp_path):
    from instar.engines import granian
    from instar.errors import ConfigError

    (tmp_path / "key.pem").write_text("none")
    with pytest.raises(ConfigError, match="cannot use certificate"):
        granian.preload(options(tls_cert=authority[1], tls_key=str(tmp_path / "key.pem")))
    with pytest.raises(ConfigError, match="cannot use certificate"):
        granian.preload(options(tls_cert=authority[1], tls_key=str(tmp_path / "absent.pem")))
