"""HTTP/2: no Connection header, GOAWAY at the stop, and no stream lost while the client still writes."""

from __future__ import annotations

import contextlib
import json
import signal
import threading

import engine_apps
import hpack
import pytest
from engine_harness import until
from hyperframe import frame

from instar.engines.base import EngineOptions
from instar.runtime.scoreboard import Column, Drain


class Client:
    """One HTTP/2 connection, frame by frame: the h2 package itself takes nothing more after a GOAWAY."""

    def __init__(self, sock):
        self.sock = sock
        self.encoder, self.decoder = hpack.Encoder(), hpack.Decoder()
        self.buffer = b""
        self.bodies, self.headers, self.ended = {}, {}, set()
        self.goaway = self.eof = False
        self.next = 1
        sock.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame.SettingsFrame(0).serialize())

    def get(self, path):
        stream, self.next = self.next, self.next + 2
        fields = [(":method", "GET"), (":path", path), (":authority", "localhost"), (":scheme", "https")]
        head = frame.HeadersFrame(stream, self.encoder.encode(fields))
        head.flags |= {"END_STREAM", "END_HEADERS"}
        self.sock.sendall(head.serialize())
        return stream

    def read(self):
        """Handle what arrives next; sends a WINDOW_UPDATE for each piece, as many clients do."""
        data = self.sock.recv(65536)
        self.eof = not data
        self.buffer += data
        while len(self.buffer) >= 9:
            found, length = frame.Frame.parse_frame_header(memoryview(self.buffer[:9]))
            if len(self.buffer) < 9 + length:
                return
            found.parse_body(memoryview(self.buffer[9 : 9 + length]))
            self.buffer = self.buffer[9 + length :]
            self.handle(found)

    def handle(self, found):
        stream = found.stream_id
        if isinstance(found, (frame.SettingsFrame, frame.PingFrame)) and "ACK" not in found.flags:
            answer = type(found)(0)
            answer.flags.add("ACK")
            if isinstance(found, frame.PingFrame):
                answer.opaque_data = found.opaque_data
            self.sock.sendall(answer.serialize())
        elif isinstance(found, frame.HeadersFrame):
            self.headers[stream] = dict(self.decoder.decode(found.data))
        elif isinstance(found, frame.DataFrame):
            self.bodies[stream] = self.bodies.get(stream, b"") + found.data
            self.sock.sendall(frame.WindowUpdateFrame(0, window_increment=max(1, len(found.data))).serialize())
        elif isinstance(found, frame.GoAwayFrame):
            self.goaway = True
        if "END_STREAM" in found.flags:
            self.ended.add(stream)

    def finish(self, *streams):
        while not set(streams) <= self.ended and not self.eof:
            self.read()

    def until_closed(self):
        with contextlib.suppress(OSError):
            while not self.eof:
                self.read()


@pytest.fixture(params=["wsgi", "asgi"])
def worker(request, start, authority, client_tls):
    options = EngineOptions(threads=4, tls_cert=authority[1], tls_key=authority[2])
    app = engine_apps.wsgi if request.param == "wsgi" else engine_apps.asgi
    return start("granian", request.param, app, options=options, tls=client_tls)


def test_counted_and_without_connection_header(worker):
    client = Client(worker.connect(alpn="h2"))
    stream = client.get("/env")
    client.finish(stream)
    found = json.loads(client.bodies[stream])
    assert found.get("SERVER_PROTOCOL", found.get("http_version")) in ("HTTP/2.0", "HTTP/2", "2")
    worker.drain(Drain.CLOSE)
    stream = client.get("/")
    client.finish(stream)
    assert client.bodies[stream] == b"ok"
    assert "connection" not in client.headers[stream]
    assert worker.get_state(Column.HTTP2) == worker.get_state(Column.REQUESTS) == 2
    threading.Thread(target=client.until_closed, daemon=True).start()
    assert worker.stop() == 0
    assert client.goaway


@pytest.mark.parametrize("turn", range(3))
def test_streams_survive_the_stop(worker, turn):
    clients = [Client(worker.connect(alpn="h2")) for _ in range(3)]
    for client in clients:
        # A handshake that the server has not finished yet is dropped by its stop.
        client.finish(client.get("/"))
    streams = [[client.get("/slow?s=0.4") for _ in range(4)] for client in clients]
    until(lambda: worker.get_state(Column.IN_FLIGHT) >= 4)
    worker.drain(Drain.CLOSE)
    worker.signal(signal.SIGUSR1)
    worker.signal(signal.SIGTERM)
    threads = [threading.Thread(target=client.until_closed) for client in clients]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for client, mine in zip(clients, streams, strict=True):
        assert client.goaway
        assert [client.bodies.get(stream) for stream in mine] == [b"slow"] * 4
        client.sock.close()
    assert worker.wait() == 0


def test_event_stream_ends(start, authority, client_tls):
    options = EngineOptions(tls_cert=authority[1], tls_key=authority[2])
    worker = start("granian", "asgi", engine_apps.asgi, options=options, tls=client_tls)
    client = Client(worker.connect(alpn="h2"))
    stream = client.get("/sse")
    while b"data: 3" not in client.bodies.get(stream, b""):
        client.read()
    worker.drain(Drain.END_STREAMS)
    client.finish(stream)
    assert stream in client.ended
    client.sock.close()
    assert worker.stop() == 0


def test_only_http2_in_clear_text(start):
    worker = start("granian", "asgi", engine_apps.asgi, options=EngineOptions(http="2"))
    client = Client(worker.connect())
    stream = client.get("/")
    client.finish(stream)
    assert client.bodies[stream] == b"ok"
    client.sock.close()
    assert worker.stop() == 0
