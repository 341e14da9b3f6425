"""What the search for applications finds."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Literal


@dataclasses.dataclass(frozen=True)
class Health:
    """A path that a working application answers, and why we think so."""

    path: str
    why: str
    status: str = "200-399"
    host: str = "localhost"


@dataclasses.dataclass(frozen=True)
class Static:
    """Files that can be served without the application. `folder` is relative to the project."""

    prefix: str
    folder: str
    exists: bool = True


@dataclasses.dataclass(frozen=True)
class Candidate:
    """One application. Paths are relative to the project's folder."""

    framework: str
    target: str
    interface: Literal["auto", "wsgi", "asgi"]
    file: str
    line: int
    factory: bool = False
    chdir: str = "."
    pythonpath: tuple[str, ...] = ()
    health: Health = Health("/", "no route was found; set it to one that answers", status="200-499")
    static: tuple[Static, ...] = ()
    #: Commands to suggest for `[restart] before`.
    before: tuple[tuple[str, ...], ...] = ()
    notes: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Project:
    """A folder and the applications in it, the likeliest first."""

    root: Path
    name: str
    candidates: tuple[Candidate, ...]
