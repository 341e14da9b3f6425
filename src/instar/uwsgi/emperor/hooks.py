"""`vassals-start-hook` and `vassals-stop-hook`: a program that is called with the name of a vassal's file."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable

from instar.system import describe_status
from instar.uwsgi.emperor.settings import EmperorSettings

#: A hook that takes longer is killed: every start waits for it (seconds).
LONGEST = 60.0


async def run(command: str, vassal: str, settings: EmperorSettings, log: Callable[[str], None]) -> None:
    """Wait for it; what comes of it is only logged, as under uWSGI. The command is one word, not a shell's line."""
    if not command:
        return
    try:
        process = await asyncio.create_subprocess_exec(
            command,
            vassal,
            cwd=settings.directory,
            env={**os.environ, "UWSGI_VASSALS_DIR": str(settings.directory)},
            stdin=asyncio.subprocess.DEVNULL,
        )
    except OSError as error:
        log(f"cannot run {command} {vassal}: {error.strerror}")
        return
    try:
        status = await asyncio.wait_for(process.wait(), LONGEST)
    except TimeoutError:
        process.kill()
        status = await process.wait()
    if status:
        log(f"{command} {vassal} {describe_status(status)}")
