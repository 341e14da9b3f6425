"""A child process of the supervisor that asyncio waits for: hooks and services."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess

from instar.system import System


class Child:
    """Owner of the process and of its pidfd. It leads its own session, so its group can be signalled."""

    def __init__(self, process: subprocess.Popen[bytes], system: System) -> None:
        self.pid = process.pid
        self._process = process
        self._system = system
        self._pidfd = system.pidfd_open(process.pid)
        self._done: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        asyncio.get_running_loop().add_reader(self._pidfd, self._on_exit)

    def _on_exit(self) -> None:
        asyncio.get_running_loop().remove_reader(self._pidfd)
        os.close(self._pidfd)
        status = self._system.finish(self._process)
        if not self._done.done():
            self._done.set_result(status)

    @property
    def running(self) -> bool:
        """Whether it has not been reaped."""
        return not self._done.done()

    async def wait(self) -> int:
        """Its exit status; negative: the signal that ended it."""
        return await asyncio.shield(self._done)

    async def stop(self, timeout: float) -> int:
        """SIGTERM to its group, SIGKILL after `timeout` seconds; returns the exit status."""
        self._signal_group(signal.SIGTERM)
        with contextlib.suppress(TimeoutError):
            return await asyncio.wait_for(self.wait(), timeout)
        self._signal_group(signal.SIGKILL)
        return await self.wait()

    def _signal_group(self, sig: int) -> None:
        # Not reaped yet, so the group number is still its own.
        if self.running:
            self._system.kill(-self.pid, sig)
