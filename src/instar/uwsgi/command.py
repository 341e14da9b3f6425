"""`instar uwsgi ARGS…`: reads uWSGI's command line and files, and becomes what they describe."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence

from instar.config.formats.uwsgi import Surroundings, UwsgiConfig, read_command_line
from instar.errors import ConfigError, InstarError
from instar.supervisor.hooks import HookError
from instar.uwsgi.around import Around
from instar.uwsgi.model import Instance
from instar.uwsgi.translate import name_of, translate
from instar.uwsgi.vassal import EmperorLink


def run(arguments: Sequence[str]) -> int:
    """Run what the arguments describe until it ends; returns the exit code. Raises InstarError."""
    # Before the environment is read: of the Emperor's variables no option is made, and no child gets them.
    link = EmperorLink.from_environment()
    # The files are read again at each reload, as if from where it was started.
    around = Surroundings()
    config = read_command_line(arguments, surroundings=around)
    if config.has("emperor", "zeus"):
        return _emperor(config)
    instance = translate(config, surroundings=around)
    for text in (*(f"{note.place}: {note.text}" for note in config.notes), *instance.warnings):
        print(f"instar: {text}", file=sys.stderr, flush=True)

    def reread() -> Instance:
        return translate(read_command_line(arguments, surroundings=around), surroundings=around)

    try:
        return asyncio.run(_serve(instance, Around(name_of(config), instance, reread, link)))
    except HookError as error:
        raise InstarError(str(error)) from error


async def _serve(instance: Instance, around: Around) -> int:
    # Each process imports what it is: an Emperor, its pools and its zerglings are many.
    if instance.config is not None:
        from instar.uwsgi.instance import ApplicationInstance

        return await ApplicationInstance(around, instance.config).serve()
    if instance.pools or instance.routers:
        from instar.uwsgi.poolinstance import PoolInstance

        return await PoolInstance(around).serve()
    raise ConfigError(
        "cannot start: the options name neither an application (module, wsgi-file, mount), a zerg-pool nor an Emperor"
    )


def _emperor(config: UwsgiConfig) -> int:
    from instar.uwsgi.emperor.command import run as run_emperor

    return run_emperor(config)
