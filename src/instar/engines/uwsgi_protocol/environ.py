"""The application's environ: what the peer sent, unchanged, and the keys of PEP 3333.

As the real uWSGI makes it (plugins/python/wsgi_subhandler.c), but for its own `uwsgi.*` keys.
"""

from __future__ import annotations

import io
import sys
from collections.abc import Callable, Iterator
from typing import Any

from instar.engines.uwsgi_protocol.packet import Head, RefusedError

_BLOCK = 64 * 1024


class FileWrapper:
    """`wsgi.file_wrapper`: the server sends the file itself when it is a real one."""

    def __init__(self, file: Any, block: int = _BLOCK) -> None:
        self.file = file
        self.block = block if block > 0 else _BLOCK
        close = getattr(file, "close", None)
        self.close: Callable[[], object] = close or (lambda: None)

    def __iter__(self) -> Iterator[bytes]:
        """Its content in blocks."""
        while piece := self.file.read(self.block):
            yield piece


def build(head: Head, body: io.BufferedIOBase, *, multithread: bool, multiprocess: bool) -> dict[str, Any]:
    """The environ of one request. Raises RefusedError when the peer sent none of what HTTP needs."""
    environ: dict[str, Any] = head.variables
    if not environ.get("REQUEST_METHOD"):
        raise RefusedError(
            "400 Bad Request",
            "it has no REQUEST_METHOD; does the proxy send its variables (`include uwsgi_params;` in nginx)?",
        )
    scheme = _scheme(head.variables)
    environ["wsgi.version"] = (1, 0)
    environ["wsgi.url_scheme"] = scheme
    environ["wsgi.input"] = body
    environ["wsgi.errors"] = sys.stderr
    environ["wsgi.multithread"] = multithread
    environ["wsgi.multiprocess"] = multiprocess
    environ["wsgi.run_once"] = False
    environ["wsgi.file_wrapper"] = FileWrapper
    return environ


def _scheme(variables: dict[str, str]) -> str:
    """uWSGI's rules (core/protocol.c), but what the proxy's administrator wrote wins over a client's header."""
    scheme = variables.get("UWSGI_SCHEME") or variables.get("HTTP_X_FORWARDED_PROTO", "")
    if scheme in ("http", "https"):
        return scheme
    https = variables.get("HTTPS") or variables.get("HTTP_X_FORWARDED_SSL", "")
    return "https" if https.lower().startswith(("on", "1")) else "http"
