"""`instar uwsgi --emperor DIR` and `instar run DIR`: the Emperor with its state directory and its log."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from collections.abc import Iterator

from instar.config.formats.uwsgi import UwsgiConfig
from instar.control.herald import Herald
from instar.errors import InstarError
from instar.supervisor.logstore import LogStore
from instar.supervisor.outlets import formatter, stream_outlet
from instar.supervisor.output import OutputFollower
from instar.system import System
from instar.uwsgi.emperor.control import EmperorControl
from instar.uwsgi.emperor.emperor import Emperor
from instar.uwsgi.emperor.settings import EmperorSettings
from instar.uwsgi.emperor.statedir import create
from instar.uwsgi.emperor.stats import EmperorStats
from instar.uwsgi.emperor.wrapper import wrapper_is_uwsgi


def run(options: UwsgiConfig | EmperorSettings) -> int:
    """Be the Emperor until told to stop; returns the exit code. Raises InstarError when it can't start."""
    settings = options if isinstance(options, EmperorSettings) else EmperorSettings.of(options)
    return asyncio.run(_serve(settings))


async def _serve(settings: EmperorSettings) -> int:
    # Ours, not the vassals'.
    herald = Herald.from_environment()
    state = create(settings.directory)
    state.lock()
    log = LogStore(state.log)
    log.add_outlet(stream_outlet(1, formatter("text", colours=sys.stdout.isatty())))
    follower = OutputFollower(state.output, log.append, state=state.control / "offsets.json")
    follow = asyncio.create_task(follower.run(), name="output follower")
    try:
        with _pidfile(settings):
            is_uwsgi = await wrapper_is_uwsgi(settings.wrapper)
            emperor = Emperor(
                settings,
                state,
                System(),
                log,
                collect=follower.catch_up,
                wrapper_is_uwsgi=is_uwsgi,
                notifier=herald.notifier,
            )
            log.write(f"the Emperor runs {settings.directory}")
            async with herald.following(None):
                return await _answering(emperor)
    finally:
        follow.cancel()
        follower.close(final=True)
        log.close()


async def _answering(emperor: Emperor) -> int:
    """Its life, with its sockets open."""
    async with contextlib.AsyncExitStack() as stack:
        control = EmperorControl(emperor)
        await control.start()
        stack.push_async_callback(control.stop)
        if emperor.settings.stats:
            stats = EmperorStats(emperor, emperor.settings.stats)
            await stats.start()
            stack.push_async_callback(stats.stop)
        return await emperor.serve()


@contextlib.contextmanager
def _pidfile(settings: EmperorSettings) -> Iterator[None]:
    if settings.pidfile is None:
        yield
        return
    try:
        settings.pidfile.write_text(f"{os.getpid()}\n")
    except OSError as error:
        raise InstarError(f"cannot write {settings.pidfile}: {error.strerror}; change emperor-pidfile") from error
    try:
        yield
    finally:
        settings.pidfile.unlink(missing_ok=True)
