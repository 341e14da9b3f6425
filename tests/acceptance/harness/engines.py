"""The engines that keep the promise, and which clients to send to each."""

from __future__ import annotations

import dataclasses
from typing import Any

from harness.project import Project

Clients = dict[str, dict[str, Any]]


@dataclasses.dataclass(frozen=True)
class Engine:
    """One engine with one kind of application."""

    name: str
    engine: str
    interface: str
    worker_class: str = ""
    http2: bool = False

    def __str__(self) -> str:
        return self.name

    def configure(self, project: Project) -> None:
        """Make the project run on this engine."""
        project.config["app"]["target"] = f"apps.{self.interface}:app"
        project.config["web"]["engine"] = self.engine
        if self.interface == "wsgi":
            # Long requests of the load hold a thread each.
            project.config["web"]["threads"] = 12
        if self.worker_class:
            project.config["web"]["worker_class"] = self.worker_class
        if self.http2:
            # Nothing but the end of the drain sends an HTTP/2 client away.
            project.config["restart"]["drain_timeout"] = 4.0

    def clients(self, project: Project) -> Clients:
        """Every client class that this engine can serve."""
        clients = http1(project)
        if self.interface == "asgi":
            clients["websocket"] = {"count": 2}
        if self.http2:
            clients["h2"] = {"count": 2}
            clients["h2gated"] = {"kind": "h2", "gated": True, "width": 1}
        return clients


ENGINES = (
    Engine("granian-wsgi", "granian", "wsgi", http2=True),
    Engine("granian-asgi", "granian", "asgi", http2=True),
    Engine("uvicorn", "uvicorn", "asgi"),
    Engine("gunicorn-gthread", "gunicorn", "wsgi", "gthread"),
)


def light() -> Clients:
    """Enough to see whether anything fails, without slowing a boot down."""
    return {"new": {"pause": 0.02}, "busy": {"pause": 0.01}, "idle": {"count": 4, "pause": 1.0}, "gated": {"hold": 1.0}}


def http1(project: Project) -> Clients:
    """Every HTTP/1 client class. Times are short enough that a drain takes about two seconds."""
    return {
        "new": {"count": 2, "pause": 0.01},
        "busy": {"count": 2, "pause": 0.005},
        "flatout": {"kind": "busy"},
        "idle": {"count": 10, "pause": 1.5},
        "pipelined": {"pause": 0.02},
        "slowhead": {"count": 3},
        "upload": {"count": 2, "seconds": 1.0},
        "gated": {"count": 2, "hold": 1.5},
        "stream": {"count": 2, "seconds": 0.8},
        "preconnect": {"count": 4, "wait": 1.5},
        "static": {"sha256": project.static_sha256, "pause": 0.01},
        "staticidle": {"kind": "static", "sha256": project.static_sha256, "pause": 1.0, "count": 2},
        "sse": {"count": 2},
    }
