"""Our router beside the real uWSGI's: the application behind them sees the same environ."""

from __future__ import annotations

import json

import pytest
from harness.project import free_port
from zerg_world import ZergWorld, real_uwsgi, talk

pytestmark = pytest.mark.usefixtures("needs_uwsgi")

APP = """
import json

def application(environ, start_response):
    body = environ["wsgi.input"].read()
    seen = {key: value for key, value in environ.items() if isinstance(value, str) and key != "wsgi.version"}
    answer = json.dumps([seen, body.decode("latin-1")]).encode()
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(answer)))])
    return [answer]
"""

#: Left out, since ours differs on purpose: bytes above 127 in the target (400), `%zz` (not decoded), white space at
#: the end of a header (trimmed), names with an underscore and `Proxy` (dropped), several cookies (joined by `; `).
REQUESTS = [
    b"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
    b"GET /a%20b%2Fc/../d%C3%BC?x=%20&y=?z HTTP/1.1\r\nHost: a:80\r\nAccept: */*\r\nUser-Agent: t\r\n\r\n",
    b"GET /a/./b/../c/... HTTP/1.1\r\nHost: a\r\n\r\n",
    b"GET /a/b/.. HTTP/1.1\r\nHost: a\r\n\r\n",
    b"GET /a/b/. HTTP/1.1\r\nHost: a\r\n\r\n",
    b"GET /../../etc/passwd HTTP/1.1\r\nHost: a\r\n\r\n",
    b"GET /a/%2e%2e/b/.hidden/..x HTTP/1.1\r\nHost: a\r\n\r\n",
    b"GET /a//../b HTTP/1.1\r\nHost: a\r\n\r\n",
    b"GET //double//slash?? HTTP/1.1\r\nHost: a\r\n\r\n",
    b"GET / HTTP/1.0\r\nHost: a\r\nX-One:  padded\r\n\r\n",
    b"GET / HTTP/1.0\r\n\r\n",
    b"GET / HTTP/1.1\r\nhost: a\r\nx-lower: 1\r\nX-Twice: 1\r\nX-Twice: 2\r\nX-Empty:\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: a\r\nX-Latin: caf\xe9\r\n\r\n",
    b'GET / HTTP/1.1\r\nHost: a\r\nIf-None-Match: "x"\r\nAuthorization: Basic eDp5\r\nX-Forwarded-For: 1.2.3.4\r\n\r\n',
    b"POST /p?q HTTP/1.1\r\nHost: a\r\nContent-Type: text/x; charset=y\r\nContent-Length: 5\r\n\r\nhello",
    b"POST /p HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n",
    b"OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n",
    b"DELETE /thing HTTP/1.1\r\nHost: a\r\n\r\n",
    b"PROPFIND /dav HTTP/1.1\r\nHost: a\r\nDepth: 1\r\n\r\n",
]
#: Different for each connection, or what the zergling itself says of its server.
LEFT_OUT = {"REMOTE_PORT", "SERVER_PORT", "uwsgi.node"}


def test_the_environ_is_the_same(zerg: ZergWorld) -> None:
    (zerg.folder / "app.py").write_text(APP)
    zerg.real_pool()
    theirs, ours = zerg.http_port, free_port()
    zerg.our_pool(["--http", f"127.0.0.1:{ours}", "--http-to", f"127.0.0.1:{zerg.port}"])
    zerg.start("app", [str(real_uwsgi()), "--master", "--zerg", str(zerg.pool_path), "--wsgi-file", "app.py"])
    for request in REQUESTS:
        raw = request.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n", 1)
        found = [environ(talk(("127.0.0.1", port), raw)) for port in (theirs, ours)]
        assert found[0] == found[1], raw


def environ(answer: bytes) -> tuple[dict[str, str], str]:
    assert answer.startswith((b"HTTP/1.1 200 OK\r\n", b"HTTP/1.0 200 OK\r\n")), answer
    seen, body = json.loads(answer.partition(b"\r\n\r\n")[2])
    return {key: value for key, value in seen.items() if key not in LEFT_OUT}, body
