"""Servers that a worker can run, by their name in the configuration (`web.engine`)."""

from __future__ import annotations

import importlib
from collections.abc import Iterable
from typing import cast

from instar.engines.base import Engine
from instar.errors import ConfigError

NAMES = ("granian", "uvicorn", "gunicorn", "command")
#: Engines that get every socket, whatever its clients speak; beside the others the uwsgi protocol is ours.
SPEAK_ALL = ("command",)


def for_sockets(name: str, protocols: Iterable[str]) -> Engine:
    """The engine that serves sockets of all these protocols, with `name` for HTTP. Raises ConfigError."""
    spoken = set(protocols)
    if "uwsgi" not in spoken or name in SPEAK_ALL:
        return get(name)
    from instar.engines import composite, uwsgi_protocol

    return composite.Composite(get(name)) if "http" in spoken else cast(Engine, uwsgi_protocol)


def get(name: str) -> Engine:
    """The engine's module. Raises ConfigError for a name that is none; imports no server yet."""
    if name not in NAMES:
        raise ConfigError(f"cannot use engine {name!r}: there is none of that name; choose one of {', '.join(NAMES)}")
    return cast(Engine, importlib.import_module(f"instar.engines.{name}"))
