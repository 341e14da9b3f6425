"""One line for each request, which clients can't forge."""

from __future__ import annotations

import json
import re

import pytest

from instar.runtime.access_log import AccessLog, AccessLogAsgi, AccessLogWsgi


@pytest.fixture
def lines():
    return []


def environ(**values):
    base = {"REMOTE_ADDR": "1.2.3.4", "REQUEST_METHOD": "GET", "PATH_INFO": "/a", "SERVER_PROTOCOL": "HTTP/1.1"}
    return {**base, "QUERY_STRING": "x=1", **values}


def ignore(status, headers, *exc_info):
    pass


def test_wsgi_list_and_generator(lines):
    def app(env, start):
        start("201 Created", [])
        return [b"ab", b"c"] if env["PATH_INFO"] == "/a" else (piece for piece in [b"abcd"])

    logged = AccessLogWsgi(app, AccessLog("text", lines.append))
    assert logged(environ(), ignore) == [b"ab", b"c"]
    assert re.fullmatch(r'1\.2\.3\.4 "GET /a\?x=1 HTTP/1\.1" 201 3 \d+\.\d{4}\n', lines[0])
    body = logged(environ(PATH_INFO='/b\n1.1.1.1 "fake\u00e9', REMOTE_ADDR=""), ignore)
    assert list(body) == [b"abcd"] and len(lines) == 1
    body.close()
    body.close()
    assert lines[1].startswith('unix "GET /b%0A1.1.1.1%20%22fake%E9?x=1 HTTP/1.1" 201 4 ') and len(lines) == 2


def test_wsgi_failure(lines):
    def app(env, start):
        raise RuntimeError

    with pytest.raises(RuntimeError):
        AccessLogWsgi(app, AccessLog("json", lines.append))(environ(), ignore)
    assert json.loads(lines[0])["status"] == 500


async def test_asgi(lines):
    async def app(scope, receive, send):
        if scope["type"] == "websocket":
            await send({"type": "websocket.accept"})
            return
        await send({"type": "http.response.start", "status": 204})
        await send({"type": "http.response.body", "body": b"abc"})

    async def send(message):
        pass

    logged = AccessLogAsgi(app, AccessLog("json", lines.append))
    scope = {"type": "http", "path": "/caf\u00e9", "query_string": b"q", "client": ("::1", 1), "method": "PUT"}
    await logged(scope, None, send)
    found = json.loads(lines[0])
    assert found.pop("seconds") >= 0
    assert found == {
        "event": "access",
        "client": "::1",
        "method": "PUT",
        "target": "/caf%C3%A9?q",
        "protocol": "HTTP/1.1",
        "status": 204,
        "bytes": 3,
    }
    await logged({"type": "websocket", "path": "/ws", "client": None, "http_version": "1.1"}, None, send)
    assert json.loads(lines[1])["status"] == 101
    assert len(lines) == 2
