"""Asks the supervisor of a vassal that is instar's own, without holding the Emperor up."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from instar.config.state import state_dir
from instar.control.client import Client
from instar.errors import InstarError
from instar.uwsgi.emperor.process import VassalProcess
from instar.uwsgi.emperor.vassal_file import Kind, VassalFile


def state_of(file: VassalFile, process: VassalProcess | None) -> Path | None:
    """Its state directory: as it said itself, else as its name says. None for one of the real uWSGI."""
    if file.kind is Kind.UWSGI:
        return None
    if process is not None and process.state_dir is not None:
        return process.state_dir
    if told := os.environ.get("INSTAR_STATE_DIR"):
        return Path(told).absolute() / file.app
    return state_dir(file.app)


async def status(file: VassalFile, process: VassalProcess) -> dict[str, Any] | None:
    """What its supervisor says; None when it has none, or when another process answers there."""
    folder = state_of(file, process)
    if folder is None:
        return None
    try:
        answer = await asyncio.to_thread(Client(folder).get, "/v1/status")
    except InstarError:
        return None
    return answer if answer.get("pid") == process.pid else None


async def restart(file: VassalFile, process: VassalProcess, body: dict[str, Any]) -> AsyncIterator[dict[str, Any]]:
    """Have it hand over to a new generation; its events. Raises InstarError."""
    folder = state_of(file, process)
    if folder is None:
        raise AssertionError("the real uWSGI has no supervisor of ours")
    loop, queue = asyncio.get_running_loop(), asyncio.Queue[dict[str, Any] | InstarError | None]()

    def follow() -> None:
        last: InstarError | None = None
        try:
            for event in Client(folder).stream("POST", "/v1/restart", body):
                loop.call_soon_threadsafe(queue.put_nowait, event)
        except InstarError as error:
            last = error
        loop.call_soon_threadsafe(queue.put_nowait, last)

    reading = asyncio.create_task(asyncio.to_thread(follow), name=f"restart {file.found.name}")
    while isinstance(event := await queue.get(), dict):
        yield event
    await reading
    if event is not None:
        raise event
