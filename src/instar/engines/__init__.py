"""Servers that a worker can run, by their name in the configuration (`web.engine`)."""

from __future__ import annotations

import importlib
from typing import cast

from instar.engines.base import Engine
from instar.errors import ConfigError

NAMES = ("granian", "uvicorn", "gunicorn", "command")


def get(name: str) -> Engine:
    """The engine's module. Raises ConfigError for a name that is none; imports no server yet."""
    if name not in NAMES:
        raise ConfigError(f"cannot use engine {name!r}: there is none of that name; choose one of {', '.join(NAMES)}")
    return cast(Engine, importlib.import_module(f"instar.engines.{name}"))
