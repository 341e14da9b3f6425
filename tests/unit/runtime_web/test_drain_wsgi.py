"""The WSGI side of draining: every request is counted exactly once, whatever becomes of it."""

from __future__ import annotations

import gc
import threading

import pytest

from instar.runtime.drain import DrainState
from instar.runtime.drain_wsgi import DrainWsgi
from instar.runtime.probe import Probe
from instar.runtime.scoreboard import Column, Drain, Scoreboard


@pytest.fixture
def state():
    board = Scoreboard.create(2)
    yield DrainState(board, 1)


def call(app, **environ):
    answer = []
    environ = {"SERVER_PROTOCOL": "HTTP/1.1", "PATH_INFO": "/", **environ}
    body = app(environ, lambda status, headers, exc=None: answer.append((status, headers)))
    return answer, body


def value(state, column):
    return state.board.get(1, column)


def plain(body, status="200 OK", headers=()):
    def app(environ, start):
        start(status, [("Content-Type", "text/plain"), *headers])
        return body() if callable(body) else body

    return app


def test_list_stays_the_same_list(state):
    answer = [b"ok"]
    _, body = call(DrainWsgi(plain(answer), state))
    assert body is answer
    assert value(state, Column.IN_FLIGHT) == 0
    assert value(state, Column.REQUESTS) == 1


def test_generator_is_in_flight_until_closed(state):
    closed = []

    def generate():
        try:
            yield b"a"
            yield b"b"
        finally:
            closed.append(True)

    _, body = call(DrainWsgi(plain(generate), state))
    assert value(state, Column.IN_FLIGHT) == 1
    assert state.oldest() > 0
    assert next(iter(body)) == b"a"
    body.close()
    assert closed == [True]
    assert value(state, Column.IN_FLIGHT) == 0
    assert state.oldest() == 0
    body.close()
    assert value(state, Column.IN_FLIGHT) == 0


def test_head_closes_without_iterating(state):
    _, body = call(DrainWsgi(plain(lambda: iter([b"a"])), state), REQUEST_METHOD="HEAD")
    body.close()
    assert value(state, Column.IN_FLIGHT) == 0


def test_forgotten_body_does_not_stay_in_flight(state):
    _, body = call(DrainWsgi(plain(lambda: iter([b"a"])), state))
    del body
    gc.collect()
    assert value(state, Column.IN_FLIGHT) == 0


def test_errors_by_status_and_exception_count_once(state):
    call(DrainWsgi(plain([b""], "500 Oops"), state))
    call(DrainWsgi(plain([b""], "499 Mine"), state))

    def breaks(environ, start):
        start("500 Oops", [])
        raise RuntimeError

    with pytest.raises(RuntimeError):
        call(DrainWsgi(breaks, state))
    assert value(state, Column.ERRORS) == 2
    assert value(state, Column.IN_FLIGHT) == 0


def test_error_in_the_middle_of_a_body(state):
    inner_closed = []

    class Body:
        def __iter__(self):
            yield b"a"
            raise RuntimeError

        def close(self):
            inner_closed.append(True)

    _, body = call(DrainWsgi(plain(Body), state))
    with pytest.raises(RuntimeError):
        list(body)
    body.close()
    assert inner_closed == [True]
    assert value(state, Column.ERRORS) == 1
    assert value(state, Column.IN_FLIGHT) == 0


def test_start_response_late_and_twice(state):
    def late(environ, start):
        start("200 OK", [])
        start("503 Busy", [("Content-Type", "text/event-stream")], ("x",))
        yield b"a"

    answer, body = call(DrainWsgi(late, state))
    assert answer == []
    iterator = iter(body)
    assert next(iterator) == b"a"
    assert [status for status, _ in answer] == ["200 OK", "503 Busy"]
    assert value(state, Column.LONG_LIVED) == 1
    assert state.oldest() == 0
    body.close()
    assert value(state, Column.ERRORS) == 1
    assert value(state, Column.LONG_LIVED) == 0


def test_close_header_only_while_draining_and_only_http1(state):
    app = DrainWsgi(plain([b""], headers=[("Connection", "keep-alive")]), state)
    assert ("Connection", "keep-alive") in call(app)[0][0][1]
    state.board.set(1, Column.DRAIN, Drain.CLOSE)
    headers = call(app)[0][0][1]
    assert [item for item in headers if item[0].lower() == "connection"] == [("Connection", "close")]
    headers = call(app, SERVER_PROTOCOL="HTTP/2.0")[0][0][1]
    assert ("Connection", "close") not in headers
    assert value(state, Column.HTTP2) == 1


def test_server_that_forbids_the_connection_header(state):
    calls = []

    def strict(status, headers, exc_info=None):
        calls.append((headers, exc_info))
        assert not any(name.lower() == "connection" for name, _ in headers)
        return "write"

    state.board.drain = Drain.CLOSE
    app = DrainWsgi(plain([b"ok"]), state)
    assert app({"SERVER_PROTOCOL": "HTTP/1.1"}, strict) == [b"ok"]
    assert [headers for headers, _ in calls][1] == [("Content-Type", "text/plain")]
    assert calls[1][1][0] is AssertionError


def test_event_stream_ends_other_streams_do_not(state):
    def endless():
        while True:
            yield b"x"

    stream = DrainWsgi(plain(endless), state)
    events = DrainWsgi(plain(endless, headers=()), state)

    def event_app(environ, start):
        start("200 OK", [("content-type", "text/event-stream; charset=utf-8")])
        return endless()

    events = DrainWsgi(event_app, state)
    _, body = call(events)
    _, other = call(stream)
    assert next(body) == next(other) == b"x"
    state.board.drain = Drain.CLOSE
    assert next(body) == b"x"
    state.board.drain = Drain.END_STREAMS
    assert list(body) == []
    assert next(other) == b"x"
    body.close()
    other.close()
    assert value(state, Column.IN_FLIGHT) == value(state, Column.LONG_LIVED) == 0


def test_file_wrapper_is_recognised_by_the_server(state):
    class Wrapper:
        closed = 0

        def __init__(self, name):
            self.name = name

        def __iter__(self):
            return iter([b"a"])

        def close(self):
            Wrapper.closed += 1

    def app(environ, start):
        start("200 OK", [])
        return environ["wsgi.file_wrapper"]("x")

    _, body = call(DrainWsgi(app, state), **{"wsgi.file_wrapper": Wrapper})
    assert type(body) is Wrapper
    assert value(state, Column.IN_FLIGHT) == 1
    body.close()
    assert Wrapper.closed == 1
    assert value(state, Column.IN_FLIGHT) == 0


def test_probe_is_answered_not_counted_and_the_secret_removed(state):
    seen = []

    def app(environ, start):
        seen.append(environ.get("HTTP_X_INSTAR_PROBE"))
        start("200 OK", [])
        return [b""]

    wrapped = DrainWsgi(app, state, Probe("secret", 7, 2))
    headers = call(wrapped, HTTP_X_INSTAR_PROBE="secret")[0][0][1]
    assert headers == [("x-instar-generation", "7"), ("x-instar-worker", "2")]
    assert value(state, Column.REQUESTS) == 0
    assert call(wrapped, HTTP_X_INSTAR_PROBE="secre\xff")[0][0][1] == []
    assert call(DrainWsgi(app, state, Probe("", 7, 2)), HTTP_X_INSTAR_PROBE="")[0][0][1] == []
    assert seen == [None] * 3
    assert value(state, Column.REQUESTS) == 2


def test_counts_are_exact_with_threads(state):
    app = DrainWsgi(plain(lambda: iter([b"a"])), state)

    def work():
        for _ in range(2000):
            call(app)[1].close()

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        state.oldest()
    for thread in threads:
        thread.join()
    assert value(state, Column.REQUESTS) == 8000
    assert value(state, Column.IN_FLIGHT) == 0
