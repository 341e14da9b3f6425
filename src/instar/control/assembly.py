"""A supervisor with all that it needs around it: state directory, log, output follower, control socket."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import itertools
import socket
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path

from instar.config import Config, parse_address
from instar.control.server import ControlServer
from instar.errors import InstarError
from instar.listeners.systemd import Inherited, match
from instar.supervisor.frontend import Frontend
from instar.supervisor.generation import Generation
from instar.supervisor.leftovers import Orphan, find_orphans
from instar.supervisor.logstore import LogStore
from instar.supervisor.outlets import file_outlet, formatter, stream_outlet
from instar.supervisor.output import OutputFollower
from instar.supervisor.plan import Credentials
from instar.supervisor.registry import Outside
from instar.supervisor.remains import Remains, find_remains
from instar.supervisor.seams import Seams
from instar.supervisor.statedir import OccupiedError, StateDir, lock_folder
from instar.supervisor.stored import StoredSockets
from instar.supervisor.supervisor import Supervisor
from instar.supervisor.upgrade.inheritance import Inheritance
from instar.supervisor.upgrade.release import Releases, import_from
from instar.supervisor.upgrade.upgrade import Origin, Upgrade
from instar.system import System

#: State directories that are tried when supervisors of one name may run side by side.
_MOST_SIDE_BY_SIDE = 16


@contextlib.asynccontextmanager
async def assembled(
    config: Config,
    reload: Callable[[], Config],
    *,
    sockets: Sequence[socket.socket] = (),
    stored: StoredSockets | None = None,
    pooled: bool = False,
    side_by_side: bool = False,
    seams: Seams | None = None,
    system: System | None = None,
    heir: Inheritance | None = None,
    way: Way | None = None,
) -> AsyncIterator[Supervisor]:
    """A supervisor that is ready for `serve`, with its control socket open. Raises InstarError.

    `sockets`: listening sockets for the binds that name their addresses; `stored`: those that the service manager has
    kept for us. `pooled`: other supervisors accept from them too, and nothing is adopted. `side_by_side`: if the state
    directory is taken, one beside it is used (`NAME.2`, `NAME.3` …); also if a generation lives in it whose supervisor
    died, which is then one of `supervisor.orphans`.
    `heir`: what the version that we were has left; `way`: how to become another.
    """
    system = system or System()
    state, orphans, remains = occupy(config, system, side_by_side=side_by_side, adopt=not pooled, heir=heir)
    log = open_log(config, state.log)
    follower = OutputFollower(state.output, log.append, state=state.control / "offsets.json")
    for number in follower.generations():
        # Of an earlier supervisor, whose processes are gone: deliver their last lines, then delete the files.
        if not remains or number not in remains.contacts:
            follower.retire(number)
    follow = asyncio.create_task(follower.run(), name="output follower")
    try:
        outside = Outside(
            state,
            Frontend(lock_folder(), sockets, pooled, stored),
            log,
            collect=follower.catch_up,
            retire_output=follower.retire,
            system=system,
            seams=seams or Seams(),
        )
        supervisor = Supervisor(config, reload, outside)
        supervisor.orphans, supervisor.remains = orphans, remains
        if stored:
            stored.log = log.write
        control = ControlServer(supervisor)
        await control.start(heir.take_control() if heir else -1)
        supervisor.heir = heir
        if way:
            prepare_upgrade(supervisor, control, way)
        try:
            yield supervisor
        finally:
            await control.stop()
    finally:
        follow.cancel()
        follower.close(final=True)
        log.close()


def occupy(
    config: Config,
    system: System,
    *,
    side_by_side: bool = False,
    adopt: bool = True,
    heir: Inheritance | None = None,
) -> tuple[StateDir, list[Orphan], Remains | None]:
    """The state directory, created and locked; orphans in those before it; what can be adopted. Raises InstarError."""
    root, who, orphans = config.state_dir(), Credentials.of(config), list[Orphan]()
    if heir and heir.state.resolve() != root.resolve():
        raise InstarError(f"cannot take over from the supervisor in {heir.state}: the configuration names {root} now")
    for number in itertools.count(1):
        state = StateDir(root if number == 1 else root.with_name(f"{root.name}.{number}"))
        state.create(who.uid, who.gid)
        more = side_by_side and number < _MOST_SIDE_BY_SIDE
        try:
            state.lock(heir.take_lock() if heir else -1)
        except OccupiedError:
            if more:
                continue
            raise
        if adopt and not side_by_side:
            return state, orphans, find_remains(state, system)
        # Its lock stays ours as well: nobody else deals with the same orphans.
        found = find_orphans(state)
        if not found:
            return state, orphans, None
        if not more:
            raise InstarError(found[0].describe())
        orphans += found
    raise AssertionError("the loop ends by returning or raising")


@dataclasses.dataclass(frozen=True)
class Way:
    """How a supervisor was started; for the version that it may become."""

    #: The program and its arguments, as people start it.
    command: Sequence[str]
    arguments: Sequence[str]
    environment: Callable[[], dict[str, str]]


def prepare_upgrade(supervisor: Supervisor, control: ControlServer, way: Way) -> None:
    """Keep a copy of this version, import from it from now on, and make the upgrade possible."""
    releases = Releases(supervisor.state.releases)
    try:
        home = releases.keep()
    except InstarError as error:
        supervisor.log.write(f"{error}; until then `instar upgrade` is refused")
        return
    import_from(home)
    releases.prune(home)
    origin = Origin(way.command, home, way.arguments, way.environment, supervisor.state.lock_fd, lambda: control.fd)
    supervisor.upgrade = Upgrade(origin, supervisor.registry, supervisor.operations, supervisor.tasks)


def inherited(config: Config, sockets: Sequence[Inherited]) -> list[socket.socket]:
    """Listening sockets of socket units. Raises ConfigError for one that no bind names."""
    return list(match(sockets, config.web.bind).values())


def open_log(config: Config, folder: Path) -> LogStore:
    """The log with its outlets. Raises InstarError."""
    settings = config.log
    log = LogStore(folder, max_bytes=settings.max_size, backups=settings.backups)
    if settings.stdout:
        log.add_outlet(stream_outlet(1, formatter(settings.format, colours=sys.stdout.isatty())))
    if settings.file:
        try:
            log.add_outlet(
                file_outlet(
                    settings.file,
                    formatter(settings.format),
                    max_bytes=settings.max_size,
                    backups=settings.backups,
                )
            )
        except OSError as error:
            raise InstarError(
                f"cannot write the log to {settings.file}: {error.strerror}; change [log] file"
            ) from error
    return log


def announce(supervisor: Supervisor, generation: Generation) -> None:
    """Say in the log where the application is served."""
    config = supervisor.config
    binds = [_shown(listener.address, config) for listener in supervisor.registry.frontend.listeners.values()]
    workers = "1 worker" if generation.plan.workers == 1 else f"{generation.plan.workers} workers"
    text = (
        f"serving {config.app.name} on {', '.join(binds)} "
        f"(generation {generation.number}, {workers}, {config.web.servers})"
    )
    supervisor.log.write(text, generation=generation.number)


def _shown(text: str, config: Config) -> str:
    address = parse_address(text)
    if address.kind == "unix" or address.protocol != "http":
        return text
    return f"{'https' if config.web.tls_cert else 'http'}://{text}"
