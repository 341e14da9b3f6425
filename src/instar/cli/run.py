"""`instar run`."""

from __future__ import annotations

import asyncio
import socket
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from instar.cli._options import ConfigFile, Name, StateDir
from instar.errors import InstarError

if TYPE_CHECKING:
    from instar.config import Config
    from instar.supervisor.generation import Generation
    from instar.supervisor.logstore import LogStore
    from instar.supervisor.supervisor import Supervisor


def run(
    target: Annotated[
        str | None, typer.Argument(metavar="[MODULE:ATTR]", help="The application; overrides the file.")
    ] = None,
    bind: Annotated[
        list[str] | None, typer.Option(metavar="ADDRESS", help="Listen here (host:port, unix:/path); repeat.")
    ] = None,
    workers: Annotated[int | None, typer.Option(help="Worker processes.", show_default="web.workers")] = None,
    threads: Annotated[int | None, typer.Option(help="Threads of each worker.", show_default="web.threads")] = None,
    engine: Annotated[
        str | None, typer.Option(help="granian, uvicorn, gunicorn or command.", show_default="web.engine")
    ] = None,
    chdir: Annotated[Path | None, typer.Option(help="Folder of the application.", show_default="app.chdir")] = None,
    config: ConfigFile = None,
    name: Name = None,
    state_dir: StateDir = None,
) -> None:
    """Serve an application in the foreground, until SIGTERM or Ctrl-C.

    SIGHUP restarts it into the code that is on disk, like `instar restart`; a second SIGTERM or Ctrl-C stops at once.

    \b
    Examples:
      instar run
      instar run mysite.wsgi:application --bind 127.0.0.1:8000 --workers 4
      instar run -c /etc/mysite/instar.toml
    """
    overrides = {
        "web.bind": bind or None,
        "web.workers": workers,
        "web.threads": threads,
        "web.engine": engine,
        "app.chdir": str(chdir) if chdir else None,
        "app.name": name,
        "state_dir": str(state_dir) if state_dir else None,
    }
    given = {key: value for key, value in overrides.items() if value is not None}
    raise typer.Exit(_run(config, target, given))


def _run(file: Path | None, target: str | None, overrides: dict[str, Any]) -> int:
    from instar.config import load

    def reload() -> Config:
        return load(file, target=target, overrides=overrides)

    config = reload()
    for warning in config.warnings():
        print(f"instar: {warning}", file=sys.stderr)
    return asyncio.run(_serve(config, reload))


async def _serve(config: Config, reload: Any) -> int:
    from instar.control.server import ControlServer
    from instar.supervisor.frontend import Frontend
    from instar.supervisor.leftovers import clear_leftovers
    from instar.supervisor.output import OutputFollower
    from instar.supervisor.plan import Credentials
    from instar.supervisor.registry import Outside
    from instar.supervisor.statedir import StateDir, lock_folder
    from instar.supervisor.supervisor import Supervisor
    from instar.system import System

    state = StateDir(config.state_dir())
    who = Credentials.of(config)
    state.create(who.uid, who.gid)
    state.lock()
    clear_leftovers(state)
    log = _open_log(config, state.log)
    follower = OutputFollower(state.output, log.append, state=state.control / "offsets.json")
    for number in follower.generations():
        # Of an earlier supervisor, whose processes are gone: deliver their last lines, then delete the files.
        follower.retire(number)
    follow = asyncio.create_task(follower.run(), name="output follower")
    try:
        outside = Outside(
            state,
            Frontend(lock_folder(), _inherited(config)),
            log,
            collect=follower.catch_up,
            retire_output=follower.retire,
            system=System(),
        )
        supervisor = Supervisor(config, reload, outside)
        control = ControlServer(supervisor)
        await control.start()
        try:
            return await supervisor.serve(lambda generation: _announce(supervisor, generation))
        finally:
            await control.stop()
    finally:
        follow.cancel()
        follower.close(final=True)
        log.close()


def _inherited(config: Config) -> list[socket.socket]:
    from instar.listeners.systemd import match, take_inherited

    return list(match(take_inherited(), config.web.bind).values())


def _open_log(config: Config, folder: Path) -> LogStore:
    from instar.supervisor.logstore import LogStore
    from instar.supervisor.outlets import file_outlet, formatter, stream_outlet

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


def _shown(text: str, config: Config) -> str:
    from instar.config import parse_address

    address = parse_address(text)
    if address.kind == "unix" or address.protocol != "http":
        return text
    return f"{'https' if config.web.tls_cert else 'http'}://{text}"


def _announce(supervisor: Supervisor, generation: Generation) -> None:
    config = supervisor.config
    binds = [_shown(listener.address, config) for listener in supervisor.registry.frontend.listeners.values()]
    workers = "1 worker" if generation.plan.workers == 1 else f"{generation.plan.workers} workers"
    text = (
        f"serving {config.app.name} on {', '.join(binds)} "
        f"(generation {generation.number}, {workers}, {config.web.engine})"
    )
    supervisor.log.write(text, generation=generation.number)
