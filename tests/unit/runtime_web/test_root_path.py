"""SCRIPT_NAME and root_path, whether the proxy strips the prefix or not."""

from __future__ import annotations

import pytest

from instar.runtime.root_path import RootPathAsgi, RootPathWsgi


@pytest.mark.parametrize(
    ("path", "expected"),
    [("/app/x", "/x"), ("/app", ""), ("/app/", "/"), ("/x", "/x"), ("/apple", "/apple"), ("/", "/")],
)
@pytest.mark.parametrize("root", ["/app", "app/", "/app/"])
def test_wsgi(path, expected, root):
    environ = {"PATH_INFO": path, "SCRIPT_NAME": ""}
    RootPathWsgi(lambda env, start: [], root)(environ, None)
    assert (environ["SCRIPT_NAME"], environ["PATH_INFO"]) == ("/app", expected)


def test_wsgi_speaks_latin_1():
    environ = {"PATH_INFO": "/caf\u00c3\u00a9/x"}
    RootPathWsgi(lambda env, start: [], "/café")(environ, None)
    assert (environ["SCRIPT_NAME"], environ["PATH_INFO"]) == ("/caf\u00c3\u00a9", "/x")


@pytest.mark.parametrize(
    ("path", "expected"), [("/app/x", "/app/x"), ("/app", "/app"), ("/x", "/app/x"), ("/apple", "/app/apple")]
)
@pytest.mark.parametrize("kind", ["http", "websocket"])
async def test_asgi(kind, path, expected):
    seen = []

    async def app(scope, receive, send):
        seen.append(scope)

    scope = {"type": kind, "path": path, "raw_path": path.encode(), "root_path": ""}
    await RootPathAsgi(app, "/app/")(scope, None, None)
    assert seen[0]["root_path"] == "/app"
    assert (seen[0]["path"], seen[0]["raw_path"]) == (expected, expected.encode())
    assert scope["path"] == path, "the server's own scope stays as it was"


async def test_lifespan_is_left_alone():
    seen = []

    async def app(scope, receive, send):
        seen.append(scope)

    await RootPathAsgi(app, "/app")({"type": "lifespan"}, None, None)
    assert seen == [{"type": "lifespan"}]
