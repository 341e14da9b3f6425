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
class Application:
    """How uWSGI's options name the application. `instar.uwsgi.inside.application` loads it from this, unless
    `native`: then `[app] target` of the configuration says the same. Relative names start from `chdir`."""

    #: `module: NAME:ATTRIBUTE`, whole: `x:app`, `x:make()`, `x`.
    module: str = ""
    #: `wsgi-file`.
    file: str = ""
    #: `callable`: default attribute of `module` and `file`; may end with `()`. Empty: `application`.
    callable: str = ""
    #: `mount: /PATH=TARGET` or `HOST|/PATH=TARGET`; the target is `x:app`, or a file that ends in .py or .wsgi.
    mounts: tuple[tuple[str, str], ...] = ()
    #: Take the mount point off PATH_INFO and put it into SCRIPT_NAME.
    manage_script_name: bool = False
    #: `import`: modules, or files, that are imported before the application.
    imports: tuple[str, ...] = ()
    #: Without a working application the instance doesn't start. False: it answers 500.
    need_app: bool = True
    #: Load it in each worker.
    lazy: bool = False
    native: bool = False


@dataclasses.dataclass(frozen=True)
class ZergPool:
    """`zerg-pool: PATH:ADDRESS,ADDRESS`: hands out its listening sockets to whoever connects to `path`."""

    path: Path
    #: As instar writes them: `0.0.0.0:4001`, `[::]:4001`, `unix:/path`.
    addresses: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Router:
    """`http: ADDRESS` with `http-to: NODE`: HTTP in front of sockets that speak the uwsgi protocol. Addresses as
    instar writes them."""

    address: str
    nodes: tuple[str, ...]
    #: Seconds that a node may be silent (`http-timeout`).
    timeout: float = 60.0


@dataclasses.dataclass(frozen=True)
class Touch:
    """Files whose change restarts something: `touch-reload` and its relatives."""

    path: Path
    #: What happens: a master FIFO letter (`r`, `c`, `w`, `l`, `L`), `mules`, or an action of hooks: `exec:COMMAND`.
    action: str


@dataclasses.dataclass(frozen=True)
class Instance:
    """One instance. Built by `instar.uwsgi.translate`; everything else of this package works from it."""

    #: The ordered list, for `uwsgi.opt`.
    options: tuple[Option, ...]
    source: Path | None = None
    #: The application; None for an instance without one (a pool, a router, an Emperor). Its `web.bind` has the
    #: instance's own sockets, none in a zergling that has all of them from pools.
    config: Config | None = None
    application: Application | None = None
    #: `emperor`: folders and patterns whose files are vassals.
    emperor: tuple[str, ...] = ()
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
    #: Permissions of UNIX sockets (`chmod-socket`); None: as the umask says.
    socket_mode: int | None = None
    #: `listen`: connections that may wait in a socket of the pool.
    backlog: int = 100
    #: `protocol`: what is spoken on sockets from a pool and on `socket` (`uwsgi` or `http`).
    protocol: Literal["uwsgi", "http"] = "uwsgi"
    pidfiles: tuple[Path, ...] = ()
    #: Sentences for the person who starts it.
    warnings: tuple[str, ...] = ()
