"""Finds the applications of a project by reading its source, without importing any of it."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

from instar.config.discover import django, frameworks
from instar.config.discover.candidate import Candidate, Health, Project, Static

__all__ = ["Candidate", "Health", "Project", "Static", "discover"]


def discover(root: Path) -> Project:
    """Look through a folder."""
    root = root.resolve()
    found = [*django.find(root), *frameworks.find(root)]
    unique: dict[tuple[str, str], Candidate] = {}
    for candidate in found:
        unique.setdefault((candidate.file, candidate.target.rpartition(":")[2]), candidate)
    return Project(root, _name(root), tuple(unique.values()))


def _name(root: Path) -> str:
    """The name in `pyproject.toml`, else that of the folder, fit for `[app] name`."""
    name = root.name
    try:
        project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8")).get("project", {})
        name = str(project["name"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        pass
    return re.sub(r"[^A-Za-z0-9_-]+", "-", name).strip("-_")[:64] or "main"
