"""One connection, served by the real code; the peer is a TCP socket."""

from __future__ import annotations

import contextlib
import io
import socket
import threading
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from peer import VARIABLES, Answer, exchange, packet, read_all, request, serving, tcp_pair

from instar.engines.uwsgi_protocol.connection import Limits, Requests

PLAIN = [("Content-Type", "text/plain")]


def hello(environ, start_response):
    start_response("200 OK", PLAIN)
    return [b"hello"]


def test_an_answer() -> None:
    answer = exchange(hello, request())
    assert answer == Answer("200 OK", [*PLAIN, ("Content-Length", "5")], b"hello")


def test_the_environ_is_what_was_sent_and_what_wsgi_adds() -> None:
    seen = {}

    def app(environ, start_response):
        seen.update(environ)
        return hello(environ, start_response)

    exchange(app, request(HTTP_X_NAME="caf\xe9", REMOTE_USER="me", MY_OWN=""))
    sent = {name: value for name, value in seen.items() if not name.startswith("wsgi.")}
    assert sent == {**VARIABLES, "HTTP_X_NAME": "caf\xe9", "REMOTE_USER": "me", "MY_OWN": ""}
    added = {name: value for name, value in seen.items() if name.startswith("wsgi.")}
    assert {name: added[name] for name in ("wsgi.version", "wsgi.url_scheme", "wsgi.multithread")} == {
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": "http",
        "wsgi.multithread": True,
    }
    assert added["wsgi.multiprocess"] is False
    assert added["wsgi.run_once"] is False
    assert set(added) - {"wsgi.version", "wsgi.url_scheme", "wsgi.multithread", "wsgi.multiprocess"} == {
        "wsgi.input",
        "wsgi.errors",
        "wsgi.run_once",
        "wsgi.file_wrapper",
    }


@pytest.mark.parametrize(
    ("variables", "scheme"),
    [
        ({}, "http"),
        ({"HTTPS": "on"}, "https"),
        ({"HTTPS": "1"}, "https"),
        ({"HTTPS": "off"}, "http"),
        ({"HTTPS": ""}, "http"),
        ({"UWSGI_SCHEME": "https"}, "https"),
        ({"HTTP_X_FORWARDED_PROTO": "https"}, "https"),
        ({"HTTP_X_FORWARDED_PROTO": "javascript"}, "http"),
        ({"HTTP_X_FORWARDED_SSL": "on"}, "https"),
        ({"UWSGI_SCHEME": "http", "HTTP_X_FORWARDED_PROTO": "https"}, "http"),
    ],
)
def test_scheme(variables: dict[str, str], scheme: str) -> None:
    def app(environ, start_response):
        start_response("200 OK", PLAIN)
        return [environ["wsgi.url_scheme"].encode()]

    assert exchange(app, request(**variables)).body.decode() == scheme


def test_modifier_30_is_served_and_changes_nothing() -> None:
    def app(environ, start_response):
        start_response("200 OK", PLAIN)
        return [f"{environ['SCRIPT_NAME']} {environ['PATH_INFO']}".encode()]

    variables = {**VARIABLES, "SCRIPT_NAME": "/app", "PATH_INFO": "/app/page"}
    assert exchange(app, packet(variables, 30)) == exchange(app, packet(variables, 0))


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (packet(VARIABLES, 5), "501 Not Implemented"),
        (b"\0\2\0\0\xff\xff", "400 Bad Request"),
        (request(CONTENT_LENGTH="12x"), "400 Bad Request"),
        (request(CONTENT_LENGTH="-1"), "400 Bad Request"),
        (request(CONTENT_LENGTH="²"), "400 Bad Request"),
        (request(CONTENT_LENGTH="9" * 5000), "400 Bad Request"),
        (packet({"A": "b"}), "400 Bad Request"),
        (packet({}), "400 Bad Request"),
        (b"GET / HTTP/1.1\r\n\r\n", "400 Bad Request"),
    ],
)
def test_what_can_not_be_served_is_answered(data: bytes, status: str, capfd) -> None:
    answer = exchange(lambda *_: pytest.fail("the application was called"), data)
    assert answer.status == status
    assert "refused a request: " in capfd.readouterr().err


def test_a_head_over_the_limit_is_answered_with_431(capfd) -> None:
    answer = exchange(hello, request(HTTP_COOKIE="c" * 5000), buffer_size=4096)
    assert answer.status == "431 Request Header Fields Too Large"
    assert exchange(hello, request(HTTP_COOKIE="c" * 3000), buffer_size=4096).status == "200 OK"


def test_the_refusal_survives_a_body() -> None:
    with serving(hello, buffer_size=1000) as sock:
        data = request(bytes(8_000_000), HTTP_COOKIE="c" * 5000)
        sender = threading.Thread(target=sock.sendall, args=(data,))
        sender.start()
        answer = Answer.parse(read_all(sock))
        sender.join()
        sock.shutdown(socket.SHUT_WR)
    assert answer.status.startswith("431 ")


def test_ping_is_answered() -> None:
    with serving(hello) as sock:
        sock.sendall(bytes((100, 0, 0, 0)))
        assert read_all(sock) == bytes((100, 0, 0, 1))


# --- bodies of requests ---


@pytest.mark.parametrize("size", [1, 1000, 16384, 65536, 3_000_000])
def test_a_body_arrives_whole(size: int) -> None:
    body = bytes(range(256)) * (size // 256 + 1)

    def app(environ, start_response):
        start_response("200 OK", PLAIN)
        return [environ["wsgi.input"].read()]

    with serving(app) as sock:
        sender = threading.Thread(target=sock.sendall, args=(request(body[:size]),))
        sender.start()
        answer = Answer.parse(read_all(sock))
        sender.join()
    assert answer.body == body[:size]


def test_input_reads_lines_and_ends() -> None:
    def app(environ, start_response):
        start_response("200 OK", PLAIN)
        source = environ["wsgi.input"]
        return [repr([source.readline(), source.read(2), source.readlines(), source.read(), list(source)]).encode()]

    answer = exchange(app, request(b"one\ntwo\nthree"))
    assert answer.body == repr([b"one\n", b"tw", [b"o\n", b"three"], b"", []]).encode()


def test_what_follows_the_body_is_not_read() -> None:
    def app(environ, start_response):
        start_response("200 OK", PLAIN)
        return [environ["wsgi.input"].read()]

    assert exchange(app, request(b"body", CONTENT_LENGTH="3")).body == b"bod"


def test_the_answer_survives_a_body_that_nobody_reads() -> None:
    # Larger than all socket buffers between the two: without draining, the kernel answers with RST.
    body = bytes(20_000_000)
    with serving(hello) as sock:
        sender = threading.Thread(target=sock.sendall, args=(request(body),))
        sender.start()
        answer = Answer.parse(read_all(sock))
        sender.join()
    assert answer.body == b"hello"


def test_the_answer_survives_chunks_without_a_length() -> None:
    # As uWSGI's HTTP router sends them. The application sees no body, as under uWSGI.
    chunks = b"100000\r\n" + bytes(0x100000) + b"\r\n0\r\n\r\n"

    def app(environ, start_response):
        start_response("200 OK", PLAIN)
        return [environ["wsgi.input"].read() + b"none"]

    with serving(app) as sock:
        sender = threading.Thread(
            target=sock.sendall, args=(request(REQUEST_METHOD="POST", HTTP_TRANSFER_ENCODING="chunked") + chunks * 8,)
        )
        sender.start()
        answer = Answer.parse(read_all(sock))
        sender.join()
        sock.shutdown(socket.SHUT_WR)
    assert answer.body == b"none"


def test_a_peer_that_goes_away_in_the_middle_of_a_body_is_no_end_of_the_body() -> None:
    seen = []

    def app(environ, start_response):
        try:
            environ["wsgi.input"].read()
        except OSError as error:
            seen.append(str(error))
            raise

    with serving(app) as sock:
        sock.sendall(request(b"half", CONTENT_LENGTH="8"))
        sock.shutdown(socket.SHUT_WR)
        read_all(sock)
    assert "in the middle" in seen[0]


def test_a_peer_that_stops_in_the_middle_of_a_body_is_answered() -> None:
    def app(environ, start_response):
        environ["wsgi.input"].read()

    with serving(app, timeout=0.1) as sock:
        sock.sendall(request(b"half", CONTENT_LENGTH="8"))
        assert Answer.parse(read_all(sock)).status == "408 Request Timeout"


# --- responses ---


@pytest.mark.parametrize("status", ["204 No Content", "304 Not Modified"])
def test_some_statuses_have_no_body(status: str) -> None:
    def app(environ, start_response):
        start_response(status, [("ETag", "x")])
        return [b"not to be seen"]

    assert exchange(app, request()) == Answer(status, [("ETag", "x")], b"")


def test_head_has_the_headers_alone() -> None:
    def app(environ, start_response):
        start_response("200 OK", [("Content-Length", "1000")])
        return [b"x" * 1000]

    assert exchange(app, request(REQUEST_METHOD="HEAD")) == Answer("200 OK", [("Content-Length", "1000")], b"")


def test_an_empty_response_has_its_head() -> None:
    def app(environ, start_response):
        start_response("200 OK", PLAIN)
        return []

    assert exchange(app, request()) == Answer("200 OK", PLAIN, b"")


def test_a_stream_goes_out_piece_by_piece_and_is_closed() -> None:
    gate, closed = threading.Event(), []

    class Stream:
        def __iter__(self):
            yield b"first"
            assert gate.wait(10)
            yield b""
            yield b"second"

        def close(self):
            closed.append(True)

    def app(environ, start_response):
        start_response("200 OK", PLAIN)
        return Stream()

    with serving(app) as sock:
        sock.sendall(request())
        data = b""
        while not data.endswith(b"first"):
            data += sock.recv(1000)
        gate.set()
        assert Answer.parse(data + read_all(sock)).body == b"firstsecond"
    assert closed == [True]


def test_write() -> None:
    def app(environ, start_response):
        write = start_response("200 OK", PLAIN)
        write(b"a")
        write(b"b")
        return [b"c"]

    assert exchange(app, request()) == Answer("200 OK", PLAIN, b"abc")


def test_a_response_larger_than_the_buffers_waits_for_a_slow_reader() -> None:
    big = bytes(range(256)) * 40_000

    def app(environ, start_response):
        start_response("200 OK", PLAIN)
        return [big]

    with serving(app, timeout=2) as sock:
        sock.sendall(request())
        data = b""
        while piece := sock.recv(300_000):
            data += piece
    assert Answer.parse(data).body == big


def test_a_file_is_sent_from_where_it_stands(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(bytes(range(256)) * 8000)
    closed = []

    def app(environ, start_response):
        file = path.open("rb")
        file.seek(100)
        start_response("200 OK", [("Content-Length", "500000")])
        wrapped = environ["wsgi.file_wrapper"](file, 8192)
        closed.append(file)
        return wrapped

    assert exchange(app, request()).body == path.read_bytes()[100:500100]
    assert closed[0].closed


def test_something_like_a_file_is_read_in_blocks() -> None:
    class Source(io.BytesIO):
        sizes: list[int] = []

        def read(self, size=-1):
            self.sizes.append(size)
            return super().read(size)

    def app(environ, start_response):
        start_response("200 OK", PLAIN)
        return environ["wsgi.file_wrapper"](Source(b"x" * 250), 100)

    assert exchange(app, request()) == Answer("200 OK", PLAIN, b"x" * 250)
    assert set(Source.sizes) == {100}


def test_head_of_a_file_sends_none_of_it(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"content")

    def app(environ, start_response):
        start_response("200 OK", [("Content-Length", "7")])
        return environ["wsgi.file_wrapper"](path.open("rb"))

    assert exchange(app, request(REQUEST_METHOD="HEAD")) == Answer("200 OK", [("Content-Length", "7")], b"")


# --- applications that fail ---


def _raises(environ, start_response):
    raise RuntimeError("a bug")


def _exits(environ, start_response):
    raise SystemExit(1)


def _never_starts(environ, start_response):
    return [b"x"]


def _bad_status(environ, start_response):
    start_response("OK", [])
    return []


def _split(environ, start_response):
    start_response("200 OK", [("X", "a\r\nSet-Cookie: b=c")])
    return []


def _bad_name(environ, start_response):
    start_response("200 OK", [("X: y\r\nZ", "a")])
    return []


def _text(environ, start_response):
    start_response("200 OK", PLAIN)
    return ["text"]


def _twice(environ, start_response):
    start_response("200 OK", PLAIN)
    start_response("200 OK", PLAIN)
    return []


def _first_piece(environ, start_response):
    start_response("200 OK", PLAIN)
    raise RuntimeError("a bug")
    yield b""


@pytest.mark.parametrize(
    "app", [_raises, _exits, _never_starts, _bad_status, _split, _bad_name, _text, _twice, _first_piece]
)
def test_a_failure_before_the_response_is_a_500(app, capfd) -> None:
    answer = exchange(app, request())
    assert (answer.status, answer.body) == ("500 Internal Server Error", b"500 Internal Server Error\n")
    said = capfd.readouterr().err
    assert "the application failed on GET '/p q'" in said
    assert "Traceback" in said


def test_an_error_page_replaces_what_was_not_sent() -> None:
    def app(environ, start_response):
        import sys

        start_response("200 OK", PLAIN)
        try:
            raise RuntimeError
        except RuntimeError:
            start_response("503 Service Unavailable", PLAIN, sys.exc_info())
        return [b"sorry"]

    assert exchange(app, request()).status == "503 Service Unavailable"


def test_a_late_failure_resets_the_connection() -> None:
    def app(environ, start_response):
        start_response("200 OK", PLAIN)
        yield b"part"
        raise RuntimeError("a bug")

    with serving(app) as sock:
        sock.sendall(request())
        with pytest.raises(ConnectionResetError):
            read_all(sock)


def test_a_failing_close_does_not_spoil_the_response(capfd) -> None:
    class Body:
        def __iter__(self):
            yield b"whole"

        def close(self):
            raise RuntimeError("a bug")

    def app(environ, start_response):
        start_response("200 OK", PLAIN)
        return Body()

    assert exchange(app, request()).body == b"whole"
    assert "when its response was closed" in capfd.readouterr().err


def test_a_client_that_goes_away_is_no_failure_of_the_application(capfd) -> None:
    closed = threading.Event()

    def app(environ, start_response):
        start_response("200 OK", PLAIN)
        try:
            while True:
                yield b"x" * 100_000
        finally:
            closed.set()

    with serving(app) as sock:
        sock.sendall(request())
        sock.recv(10)
        sock.close()
        assert closed.wait(10)
    assert capfd.readouterr().err == ""


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=300), st.booleans())
def test_any_bytes_are_answered_or_the_connection_is_closed(data: bytes, head: bool) -> None:
    """Nothing that a peer sends gets out of the server as an exception: that would end the thread."""
    if head:
        data = request(data[:100])[: len(data) * 3] + data
    client, server = tcp_pair()
    with client, server:
        client.settimeout(10)
        client.sendall(data)
        client.shutdown(socket.SHUT_WR)
        Requests(hello, Limits(1000, 1.0), multithread=True, multiprocess=True).serve(server)
        server.close()
        with contextlib.suppress(ConnectionResetError):
            answer = read_all(client)
            assert answer == b"" or answer == bytes((100, 0, 0, 1)) or answer.startswith(b"HTTP/1.1 ")


@pytest.mark.parametrize("data", [b"", b"\0\0"])
def test_a_look_whether_somebody_listens_is_not_worth_a_word(data: bytes, capfd) -> None:
    with serving(hello) as sock:
        sock.sendall(data)
        sock.shutdown(socket.SHUT_WR)
        assert read_all(sock) == b""
    assert capfd.readouterr().err == ""
