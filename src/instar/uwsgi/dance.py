"""What the zerglings of one dance share, although each has a supervisor of its own.

They serve the same sockets under the same server name, so their handlers have the same names, and hooks of one tell
another to quit. The folder is found by the pool's socket and the server name: it holds the lock files of the names,
and a lock that lets one zergling at a time run its `accepting` hooks. Two that start together take turns, and the
second ends the first, as it would had it come later.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import hashlib
import os
from collections.abc import AsyncIterator, Callable
from pathlib import Path

from instar.errors import InstarError
from instar.supervisor.plan import Credentials
from instar.supervisor.statedir import lock_folder
from instar.system import guarded
from instar.uwsgi.model import Instance

#: Beside the address locks, which all supervisors of a user share, wherever their state directories are.
_FOLDER = ".zerg"
#: Seconds between two tries to get the lock: flock(2) can't be awaited.
_TRY_EVERY = 0.02


def folder_of(instance: Instance) -> Path | None:
    """The folder that an instance shares with others; None for one that no other can replace."""
    if instance.zerg:
        key = os.path.realpath(instance.zerg[0])
    elif instance.zerg_server:
        key = os.path.realpath(instance.zerg_server)
    elif instance.fifos:
        key = os.path.realpath(instance.fifos[0])
    else:
        return None
    digest = hashlib.sha256(f"{key}\0{instance.server_name}".encode(errors="surrogateescape")).hexdigest()[:16]
    return lock_folder().parent / _FOLDER / digest


def create(folder: Path, who: Credentials) -> Path:
    """Make the shared folder, and in it that of the handlers' locks, which is returned. Raises InstarError."""
    names = folder / "handlers"
    try:
        # Others may pass through, so that the application's user reaches the locks; nobody may list it.
        folder.parent.mkdir(mode=0o711, parents=True, exist_ok=True)
        folder.mkdir(mode=0o711, exist_ok=True)
        os.close(guarded.open_folder(folder, (names.name,), who.uid))
    except OSError as error:
        raise InstarError(f"cannot create {folder} for the locks of a zerg pool: {error.strerror}") from error
    return names


@contextlib.asynccontextmanager
async def turn(folder: Path | None, limit: float, log: Callable[[str], object]) -> AsyncIterator[None]:
    """Be the only instance here that runs its `accepting` hooks; after `limit` seconds, go on all the same."""
    if folder is None:
        yield
        return
    fd = os.open(folder / "turn", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        if not await _lock(fd, limit, log):
            log(f"another instance has been at its accepting hooks for {limit:g} s: not waiting any longer")
        yield
    finally:
        os.close(fd)


async def _lock(fd: int, limit: float, log: Callable[[str], object]) -> bool:
    loop = asyncio.get_running_loop()
    end, waits = loop.time() + limit, False
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if loop.time() >= end:
                return False
            if not waits:
                waits = True
                log("another instance is at its accepting hooks; this one waits for its turn")
            await asyncio.sleep(_TRY_EVERY)
        else:
            return True
