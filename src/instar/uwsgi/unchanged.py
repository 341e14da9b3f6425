"""What an instance reads at its start only: a reload can't take a change of it up, and says so."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from instar.uwsgi import hooks
from instar.uwsgi.model import Instance

_FIXED: Final[dict[str, Callable[[Instance], object]]] = {
    "master-fifo": lambda instance: instance.fifos,
    "touch-…": lambda instance: instance.touches,
    "pidfile": lambda instance: instance.pidfiles,
    "die-on-term": lambda instance: instance.die_on_term,
    "unix_signal": lambda instance: hooks.signals(instance.hooks),
}
#: A pool's own instance opens and closes these at a reload. One with an application has them in use.
_SOCKETS: Final[dict[str, Callable[[Instance], object]]] = {
    # The folder of the handlers' locks follows from the pool: with another one in the same process, two zerglings
    # could hold one name.
    "zerg": lambda instance: instance.zerg,
    "zerg-pool": lambda instance: instance.pools,
    "zerg-server": lambda instance: instance.zerg_server,
    "http-to": lambda instance: instance.routers,
}


def left_as_they_were(began: Instance, now: Instance) -> list[str]:
    """Names of the options that have changed since the start and that no reload takes up."""
    fixed = _FIXED if began.config is None else {**_SOCKETS, **_FIXED}
    return [name for name, value in fixed.items() if value(began) != value(now)]


def sentence(names: list[str]) -> str:
    """For whoever reloads."""
    return f"{', '.join(names)} changed, and stays as it was at the start: stop the instance and start it again"
