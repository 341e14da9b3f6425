"""Servers that a worker can run, by their name in the configuration (`web.engine`)."""

from __future__ import annotations

import importlib
import signal
from collections.abc import Iterable
from typing import cast

from instar.engines.base import Engine
from instar.errors import ConfigError

#: Names and modules.
MODULES = {
    "granian": "granian",
    "uvicorn": "uvicorn",
    "gunicorn": "gunicorn",
    "uwsgi": "uwsgi_binary",
    "command": "command",
}
#: Engines whose workers become another program. They get every socket, whatever its clients speak; beside the others
#: the uwsgi protocol is ours.
BECOME_PROGRAMS = ("uwsgi", "command")


def stop_signal(name: str) -> signal.Signals:
    """What makes a worker of this engine finish its requests and leave."""
    # To a uWSGI without a master SIGTERM is the sudden way.
    return signal.SIGHUP if name == "uwsgi" else signal.SIGTERM


def for_sockets(name: str, protocols: Iterable[str]) -> Engine:
    """The engine that serves sockets of all these protocols, with `name` for HTTP. Raises ConfigError."""
    spoken = set(protocols)
    if "uwsgi" not in spoken or name in BECOME_PROGRAMS:
        return get(name)
    from instar.engines import composite, uwsgi_protocol

    return composite.Composite(get(name)) if "http" in spoken else cast(Engine, uwsgi_protocol)


def get(name: str) -> Engine:
    """The engine's module. Raises ConfigError for a name that is none; imports no server yet."""
    if name not in MODULES:
        raise ConfigError(f"cannot use engine {name!r}: there is none of that name; choose one of {', '.join(MODULES)}")
    return cast(Engine, importlib.import_module(f"instar.engines.{MODULES[name]}"))
