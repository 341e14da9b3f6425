"""Runners by their kind: ours, and those that other packages bring along."""

from __future__ import annotations

import importlib
from importlib.metadata import entry_points
from typing import Final

from instar.errors import ConfigError
from instar.jobs.runners.base import Runner

#: Group of the entry points that add runners.
GROUP: Final = "instar.runners"
_OURS: Final = {
    "local": "instar.jobs.runners.local:LocalRunner",
    "thread": "instar.jobs.runners.callables:ThreadRunner",
    "process": "instar.jobs.runners.processes:ProcessRunner",
    "slurm": "instar.jobs.runners.slurm:SlurmRunner",
}


def kinds() -> list[str]:
    """The names of all runners that can be loaded here, ours first."""
    return list(dict.fromkeys([*_OURS, *sorted(point.name for point in entry_points(group=GROUP))]))


def load(kind: str) -> type[Runner]:
    """The class of a kind of runner. Raises ConfigError."""
    try:
        found = _find(kind)
    except ImportError as error:
        raise ConfigError(f"cannot load the runner {kind!r}: {error}; install what it needs") from error
    if not (isinstance(found, type) and issubclass(found, Runner)):
        raise ConfigError(
            f"cannot use the runner {kind!r}: {found!r} does not derive from instar.jobs.runners.base.Runner"
        )
    return found


def _find(kind: str) -> object:
    if kind in _OURS:
        module, _, name = _OURS[kind].partition(":")
        return getattr(importlib.import_module(module), name)
    for point in entry_points(group=GROUP, name=kind):
        return point.load()
    raise ConfigError(f"cannot find a runner {kind!r}: there is none of that kind; choose one of {', '.join(kinds())}")
