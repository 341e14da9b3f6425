"""The supervisor's side of the guardian, which stands by while it becomes another version (`changeover.py`)."""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import sys
from pathlib import Path

from instar.errors import InstarError
from instar.supervisor.upgrade import changeover
from instar.supervisor.upgrade.inheritance import Inheritance

#: Seconds for it to stand by, and to leave.
_START, _LEAVE = 10.0, 2.0


class Guardian:
    """The process that stands by. Owner of the pipe to it.

    Nobody waits for it after the exec: the new version reaps it as a stray.
    """

    def __init__(self, process: subprocess.Popen[bytes], ready: int) -> None:
        self._process = process
        #: What the new version has to write to.
        self.ready = ready

    @classmethod
    async def start(cls, script: Path, heir: Inheritance, environment: dict[str, str]) -> Guardian:
        """Start one, and wait until it watches. Raises InstarError, OSError.

        `script`: changeover.py of the version that runs.
        """
        with contextlib.ExitStack() as stack:
            news, ready = _pipe(stack)
            greeted, hello = _pipe(stack)
            pidfd = os.pidfd_open(os.getpid())
            stack.callback(os.close, pidfd)
            # In our session and group, as it may become what we are.
            process = subprocess.Popen(
                [sys.executable, "-P", str(script), "--guard", str(pidfd), str(news), str(hello)],
                stdin=subprocess.DEVNULL,
                pass_fds=[fd for fd in (pidfd, news, hello, heir.lock, heir.control) if fd >= 0],
                env={**environment, changeover.VARIABLE: heir.dump()},
            )
            guardian = cls(process, os.dup(ready))
            # Else its end would not be seen.
            os.close(hello)
            if not await _readable(greeted, _START):
                await guardian.dismiss()
                raise InstarError("cannot upgrade: the guardian doesn't start")
            return guardian

    async def dismiss(self) -> None:
        """It isn't needed."""
        if self.ready >= 0:
            with contextlib.suppress(OSError):
                os.write(self.ready, changeover.READY)
            os.close(self.ready)
            self.ready = -1
        try:
            await asyncio.to_thread(self._process.wait, _LEAVE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            await asyncio.to_thread(self._process.wait)


def _pipe(stack: contextlib.ExitStack) -> tuple[int, int]:
    """Both ends; whoever closes one earlier may."""
    ends = os.pipe2(os.O_CLOEXEC)
    for fd in ends:
        stack.callback(_close, fd, os.fstat(fd).st_ino)
    return ends


def _close(fd: int, inode: int) -> None:
    with contextlib.suppress(OSError):
        if os.fstat(fd).st_ino == inode:
            os.close(fd)


async def _readable(fd: int, patience: float) -> bool:
    """Whether something is said; False at the end of the file, and when the time is over."""
    loop, said = asyncio.get_running_loop(), asyncio.Event()
    loop.add_reader(fd, said.set)
    try:
        await asyncio.wait_for(said.wait(), patience)
    except TimeoutError:
        return False
    finally:
        loop.remove_reader(fd)
    return bool(os.read(fd, 1))
