"""What an option list means: one uWSGI instance (a vassal, a zerg pool, a zergling), in instar's terms."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Literal

from instar.config import Config
from instar.config.formats.uwsgi import Option

#: When a hook runs; the names are those of the options, without `hook-`.
Phase = Literal[
    "asap",
    "pre-jail",
    "post-jail",
    "in-jail",
    "as-root",
    "as-user",
    "as-user-atexit",
    "pre-app",
    "post-app",
    "post-fork",
    "accepting",
    "accepting-once",
    "accepting1",
    "accepting1-once",
    "master-start",
    "touch",
]


@dataclasses.dataclass(frozen=True)
class Hook:
    """One `hook-PHASE: ACTION:ARGUMENT`. A `!` before the action keeps the argument out of the log."""

    phase: Phase
    action: str
    argument: str
    secret: bool = False


@dataclasses.dataclass(frozen=True)
class Mule:
    """One background process; `number` counts from 1 in the order of the options."""

    number: int
    #: The handler's name: `main.job-handlers.1`.
    name: str
    #: Pool of its handler: the farm, or `mule` outside any.
    pool: str
    #: Exactly one of the two, or neither for a mule that only waits for signals and messages.
    script: Path | None = None
    target: str = ""
    farms: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Farm:
    """`farm: NAME:1,2`."""

    name: str
    mules: tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class ZergPool:
    """`zerg-pool: PATH:ADDRESS,ADDRESS`: hands out its listening sockets to whoever connects to `path`."""

    path: Path
    addresses: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Router:
    """`http: ADDRESS` with `http-to: NODE`: HTTP in front of sockets that speak the uwsgi protocol."""

    address: str
    nodes: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Touch:
    """Files whose change restarts something: `touch-reload` and its relatives."""

    path: Path
    #: What happens, as a master FIFO letter (`r`, `c`, `w` …).
    action: str


@dataclasses.dataclass(frozen=True)
class Instance:
    """One instance. Built by `instar.uwsgi.translate`; everything else of this package works from it."""

    #: The ordered list, for `uwsgi.opt`.
    options: tuple[Option, ...]
    source: Path | None = None
    #: The application; None for an instance without one (a pool, a router).
    config: Config | None = None
    #: Name that begins the handlers' names (`main`).
    server_name: str = "main"
    #: Slot n is `master-fifo` number n.
    fifos: tuple[Path, ...] = ()
    hooks: tuple[Hook, ...] = ()
    #: Pools that this instance gets its sockets from.
    zerg: tuple[Path, ...] = ()
    #: Serve on own sockets when a pool can't be reached, instead of ending.
    zerg_fallback: bool = False
    pools: tuple[ZergPool, ...] = ()
    #: `zerg-server`: hands out the instance's own sockets.
    zerg_server: Path | None = None
    routers: tuple[Router, ...] = ()
    mules: tuple[Mule, ...] = ()
    farms: tuple[Farm, ...] = ()
    touches: tuple[Touch, ...] = ()
    #: SIGTERM stops (else it reloads, and SIGQUIT stops).
    die_on_term: bool = False
    #: Seconds that a graceful stop may take at most.
    mercy: float = 60.0
    #: Permissions of UNIX sockets (`chmod-socket`).
    socket_mode: int = 0o666
    pidfiles: tuple[Path, ...] = ()
    #: Sentences for the person who starts it.
    warnings: tuple[str, ...] = ()
