"""Stands for an application."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any


def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    """Answer each request, the probes' (/healthz) included."""
    start_response("200 OK", [("Content-Type", "text/plain; charset=utf-8")])
    return [b"ok\n" if environ["PATH_INFO"] == "/healthz" else b"welcome to the shop\n"]
