"""Static files, served through the application's path so that they drain like everything else.

`servestatic` builds the responses (ranges, ETag, pre-compressed variants). Looking files up is ours: its
two ways are a list made at start, which never sees an upload, and a full search for each request. Here a
known file costs one `stat`, and a new or changed file is served at once.
"""

from __future__ import annotations

import asyncio
import dataclasses
import os
import posixpath
import stat
import time
from collections.abc import Iterable
from typing import Any

from instar.errors import InstarError
from instar.runtime.drain_asgi import AsgiApp, Receive, Scope, Send
from instar.runtime.drain_wsgi import Environ, StartResponse, WsgiApp
from instar.runtime.spec import StaticMap

_METHODS = ("GET", "HEAD")
#: Known files kept in memory.
_CACHE_LIMIT = 4096
#: Seconds after which a known file is looked up anew (for compressed variants that came or went).
_CACHE_AGE = 10.0
#: Files up to this size go out as one piece; larger ones are read in pieces of it.
_BLOCK = 256 * 1024


@dataclasses.dataclass(frozen=True)
class _Known:
    path: str
    identity: tuple[int, ...]
    since: float
    file: Any


class StaticFiles:
    """Finds the file for a URL path, longest prefix first."""

    def __init__(self, maps: Iterable[StaticMap]) -> None:
        base = _servestatic("base")
        self._missing: type[Exception] = _servestatic("responders").MissingFileError
        # autorefresh: look at nothing now, however large the folders are.
        self._finder = base.ServeStaticBase.__new__(_finder_class(base))
        base.ServeStaticBase.__init__(self._finder, None, autorefresh=True)
        self._maps = sorted(
            ((_prefix(item.prefix), os.path.realpath(item.root)) for item in maps),
            key=lambda item: len(item[0]),
            reverse=True,
        )
        self._first = tuple(prefix for prefix, _ in self._maps)
        self._known: dict[str, _Known] = {}

    def covers(self, url: str) -> bool:
        """Whether any map could hold this URL path (cheap)."""
        return url.startswith(self._first)

    def find(self, url: str) -> Any | None:
        """The `servestatic` file for a URL path, None when there is none."""
        known = self._known.get(url)
        if known is not None:
            try:
                fresh = _identity(os.stat(known.path)) == known.identity  # noqa: PTH116
            except OSError:
                fresh = False
            if fresh and time.monotonic() - known.since < _CACHE_AGE:
                return known.file
            del self._known[url]
        for path in self._candidates(url):
            found = self._open(path, url)
            if found is not None:
                if len(self._known) >= _CACHE_LIMIT:
                    self._known.clear()
                self._known[url] = found
                return found.file
        return None

    def _candidates(self, url: str) -> Iterable[str]:
        # `..`, `//`, backslash, NUL: such a URL is never a file's.
        if "\\" in url or "\0" in url or posixpath.normpath(url) != url:
            return
        for prefix, root in self._maps:
            if url == prefix and not prefix.endswith("/"):
                yield root
            elif url.startswith(prefix) and (prefix.endswith("/") or url[len(prefix)] == "/"):
                path = root + "/" + url[len(prefix) :].lstrip("/")
                if os.path.isfile(path) and _inside(path, root):  # noqa: PTH113
                    yield path

    def _open(self, path: str, url: str) -> _Known | None:
        try:
            status = os.stat(path)  # noqa: PTH116
            if not stat.S_ISREG(status.st_mode):
                return None
            return _Known(path, _identity(status), time.monotonic(), self._finder.get_static_file(path, url))
        except (OSError, ValueError, self._missing):
            return None


class StaticWsgi:
    """Serves files; everything else, and what is missing, goes to the application."""

    def __init__(self, app: WsgiApp, files: StaticFiles) -> None:
        self._app = app
        self._files = files
        self._server = _servestatic("wsgi").FileServerWSGI

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        """One request."""
        url = environ.get("PATH_INFO", "")
        if environ["REQUEST_METHOD"] in _METHODS and self._files.covers(url):
            file = self._files.find(url.encode("latin-1", "replace").decode("utf-8", "replace"))
            if file is not None:
                if "wsgi.file_wrapper" not in environ:
                    environ["wsgi.file_wrapper"] = _pieces
                body: Iterable[bytes] = self._server(file)(environ, start_response)
                return body
        return self._app(environ, start_response)


class StaticAsgi:
    """The same for ASGI. Servers with the `http.response.pathsend` extension send the file themselves."""

    def __init__(self, app: AsgiApp, files: StaticFiles) -> None:
        self._app = app
        self._files = files
        self._server = _servestatic("asgi").FileServerASGI

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One connection scope."""
        if scope["type"] == "http" and scope["method"] in _METHODS:
            url = _below_root(scope)
            if self._files.covers(url):
                # In the loop's own thread: a `stat` of a local file is 30 times cheaper than a thread.
                file = self._files.find(url)
                if file is not None:
                    await self._serve(file, scope, receive, send)
                    return
        await self._app(scope, receive, send)

    async def _serve(self, file: Any, scope: Scope, receive: Receive, send: Send) -> None:
        extensions = scope.get("extensions") or {}
        if "http.response.pathsend" not in extensions and "http.response.zerocopysend" not in extensions:
            await self._serve_pieces(file, scope, send)
            return
        await self._server(file)(scope, receive, send)

    async def _serve_pieces(self, file: Any, scope: Scope, send: Send) -> None:
        # servestatic's own way makes a thread for each file and reads 8 KiB at a time.
        headers = {
            f"HTTP_{k.decode('latin-1').upper().replace('-', '_')}": v.decode("latin-1") for k, v in scope["headers"]
        }
        response = await asyncio.to_thread(file.get_response, scope["method"], headers)
        raw = [(k.lower().encode("latin-1"), v.encode("latin-1")) for k, v in response.headers if v is not None]
        content = response.file
        try:
            await send({"type": "http.response.start", "status": int(response.status), "headers": raw})
            while content is not None and (piece := await asyncio.to_thread(content.read, _BLOCK)):
                await send({"type": "http.response.body", "body": piece, "more_body": True})
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        finally:
            if content is not None:
                content.close()


def _pieces(content: Any, size: int = _BLOCK) -> Iterable[bytes]:
    """A `wsgi.file_wrapper`: small files as a list, which servers send in one go."""
    first = content.read(_BLOCK)
    if len(first) < _BLOCK:
        content.close()
        return [first]
    return _iterate(content, first)


def _iterate(content: Any, piece: bytes) -> Iterable[bytes]:
    try:
        while piece:
            yield piece
            piece = content.read(_BLOCK)
    finally:
        content.close()


def _below_root(scope: Scope) -> str:
    """The path as the application's routes see it: without `root_path`."""
    path: str = scope["path"]
    root: str = scope.get("root_path", "")
    if root and path.startswith(root) and path[len(root) : len(root) + 1] in ("", "/"):
        return path[len(root) :]
    return path


def _inside(path: str, root: str) -> bool:
    """Whether a symbolic link leads out: it would publish what nobody chose to."""
    return os.path.realpath(path).startswith(root.rstrip("/") + "/")


def _identity(status: os.stat_result) -> tuple[int, ...]:
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


def _prefix(prefix: str) -> str:
    return "/" + prefix.strip("/")


def _finder_class(base: Any) -> Any:
    class Finder(base.ServeStaticBase):  # type: ignore[misc]
        def initialize(self) -> None:
            """Nothing to set up; the base class insists."""

    return Finder


def _servestatic(module: str) -> Any:
    """A module of `servestatic`: the application's, or the supervisor's copy."""
    import importlib

    try:
        return importlib.import_module(f"servestatic.{module}")
    except ImportError as error:
        raise InstarError(
            f"cannot serve static files: {error}; install 'servestatic' in the application's environment"
        ) from None
