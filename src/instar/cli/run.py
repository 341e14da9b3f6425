"""`instar run`."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from instar.cli._options import ConfigFile, Name, StateDir
from instar.errors import ConfigError
from instar.system.first import end_by_signals

if TYPE_CHECKING:
    from instar.config import Config
    from instar.supervisor.generation import Generation
    from instar.supervisor.upgrade.inheritance import Inheritance

#: Seconds between two looks at a directory of applications.
_FREQ = 1.0


def run(
    target: Annotated[
        str | None,
        typer.Argument(
            metavar="[MODULE:ATTR | DIR]", help="The application; overrides the file. Or a directory of applications."
        ),
    ] = None,
    bind: Annotated[
        list[str] | None, typer.Option(metavar="ADDRESS", help="Listen here (host:port, unix:/path); repeat.")
    ] = None,
    workers: Annotated[int | None, typer.Option(help="Worker processes.", show_default="web.workers")] = None,
    threads: Annotated[int | None, typer.Option(help="Threads of each worker.", show_default="web.threads")] = None,
    engine: Annotated[
        str | None, typer.Option(help="granian, uvicorn, gunicorn, uwsgi or command.", show_default="web.engine")
    ] = None,
    chdir: Annotated[Path | None, typer.Option(help="Folder of the application.", show_default="app.chdir")] = None,
    config: ConfigFile = None,
    name: Name = None,
    state_dir: StateDir = None,
) -> None:
    """Serve an application in the foreground, until SIGTERM or Ctrl-C.

    SIGHUP restarts it into the code that is on disk, like `instar restart`; SIGUSR2 replaces instar itself, like
    `instar upgrade`; a second SIGTERM or Ctrl-C, and SIGQUIT, stop at once.

    With a directory, every *.toml file in it is run as an application of its own, and so is every configuration file of
    uWSGI: a new file starts one, a touched file restarts it, a removed file stops it.

    \b
    Examples:
      instar run
      instar run mysite.wsgi:application --bind 127.0.0.1:8000 --workers 4
      instar run -c /etc/mysite/instar.toml
      instar run /etc/mysites
    """
    end_by_signals()
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
    if target is not None and Path(target).is_dir():
        raise typer.Exit(_run_directory(Path(target), [*given, *(["-c"] if config else [])]))
    raise typer.Exit(_run(config, target, given))


def _run_directory(directory: Path, given: list[str]) -> int:
    from instar.uwsgi.emperor.command import run
    from instar.uwsgi.emperor.settings import EmperorSettings

    if given:
        raise ConfigError(f"cannot run a directory with {', '.join(given)}: each application has them in its own file")
    return run(EmperorSettings(directory.resolve(), freq=_FREQ, graceful_shutdown=True))


def _run(file: Path | None, target: str | None, overrides: dict[str, Any]) -> int:
    from instar.config import load
    from instar.supervisor.upgrade.inheritance import Inheritance
    from instar.supervisor.upgrade.selftest import Order as SelfTest
    from instar.supervisor.upgrade.selftest import run as run_selftest

    def reload() -> Config:
        return load(file, target=target, overrides=overrides)

    # Before anything can fail: no child inherits them.
    heir, order = Inheritance.take(), SelfTest.take()
    config = reload()
    if order:
        return run_selftest(order, config)
    for warning in config.warnings():
        print(f"instar: {warning}", file=sys.stderr)
    return asyncio.run(_serve(config, reload, heir))


async def _serve(config: Config, reload: Callable[[], Config], heir: Inheritance | None) -> int:
    from instar.control.assembly import Way, announce, assembled, inherited
    from instar.control.herald import Herald
    from instar.listeners.systemd import take_inherited
    from instar.supervisor.stored import StoredSockets
    from instar.supervisor.upgrade.selftest import invocation

    herald = Herald.from_environment()
    stored = StoredSockets(herald.notifier, take_inherited())
    command = heir.command if heir else invocation()
    way = Way(command, sys.argv[1:], lambda: {**os.environ, **herald.environment()})
    async with (
        assembled(
            config, reload, sockets=inherited(config, stored.activated), stored=stored, heir=heir, way=way
        ) as supervisor,
        herald.following(supervisor),
    ):

        def serving(generation: Generation) -> None:
            announce(supervisor, generation)
            herald.serving(generation.number)

        herald.on_settled = supervisor.registry.frontend.keep
        supervisor.on_stop = herald.stopping
        supervisor.signals[signal.SIGUSR2] = supervisor.upgrade_by_signal
        return await supervisor.serve(serving)
