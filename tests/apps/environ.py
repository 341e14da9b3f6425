"""Answers with its environ and with what it read: for comparing servers."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable
from typing import Any


def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    """Dispatch by path; by default the environ and a digest of the body."""
    path = environ.get("PATH_INFO", "")
    if path.endswith("/unread"):
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [b"unread\n"]
    if path.endswith("/raises"):
        raise RuntimeError("as the test wants it")
    if path.endswith("/empty"):
        start_response("204 No Content", [("X-Kept", "yes")])
        return []
    if path.endswith("/file"):
        start_response("200 OK", [("Content-Type", "text/plain")])
        return environ["wsgi.file_wrapper"](open(__file__, "rb"))  # type: ignore[no-any-return]
    body = environ["wsgi.input"].read()
    shown = {
        name: value if isinstance(value, str | bool | int) else list(value) if isinstance(value, tuple) else True
        for name, value in environ.items()
    }
    answer = json.dumps({"environ": shown, "size": len(body), "sha256": hashlib.sha256(body).hexdigest()})
    start_response("200 OK", [("Content-Type", "application/json")])
    return [answer.encode()]


application = app
