"""Mount the application below a path: `root_path` in ASGI, SCRIPT_NAME in WSGI.

Both ways of proxying work: the proxy passes the whole path, or strips the prefix.
"""

from __future__ import annotations

from collections.abc import Iterable
from urllib.parse import quote

from instar.runtime.drain_asgi import AsgiApp, Receive, Scope, Send
from instar.runtime.drain_wsgi import Environ, StartResponse, WsgiApp


def normalise(root_path: str) -> str:
    """`/prefix` without a slash at the end; empty for the root."""
    root_path = root_path.strip("/")
    return f"/{root_path}" if root_path else ""


def below(path: str, prefix: str) -> bool:
    """Whether `path` is the prefix or lies below it."""
    return path.startswith(prefix) and (len(path) == len(prefix) or path[len(prefix)] == "/")


class RootPathWsgi:
    """SCRIPT_NAME is the prefix, PATH_INFO the rest (PEP 3333)."""

    def __init__(self, app: WsgiApp, root_path: str) -> None:
        self._app = app
        # WSGI paths are bytes in latin-1 clothes.
        self._root = normalise(root_path).encode().decode("latin-1")

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        """One request."""
        path = environ.get("PATH_INFO", "")
        environ["SCRIPT_NAME"] = self._root
        if below(path, self._root):
            environ["PATH_INFO"] = path[len(self._root) :]
        return self._app(environ, start_response)


class RootPathAsgi:
    """`root_path` is the prefix, and `path` includes it (ASGI HTTP specification, 2.4 and later)."""

    def __init__(self, app: AsgiApp, root_path: str) -> None:
        self._app = app
        self._root = normalise(root_path)
        self._raw = quote(self._root).encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One connection scope."""
        if scope["type"] in ("http", "websocket"):
            scope = {**scope, "root_path": self._root}
            if not below(scope["path"], self._root):
                scope["path"] = self._root + scope["path"]
                if scope.get("raw_path") is not None:
                    scope["raw_path"] = self._raw + scope["raw_path"]
        await self._app(scope, receive, send)
