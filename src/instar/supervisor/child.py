"""A child process of the supervisor that asyncio waits for: hooks and services."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess

from instar.system import System

#: Of a process that is no child of ours (as in asyncio).
_UNKNOWN = 255


class Child:
    """Owner of the process and of its pidfd. It leads its own session, so its group can be signalled."""

    def __init__(
        self, process: subprocess.Popen[bytes] | None, system: System, *, pid: int = 0, pidfd: int = -1
    ) -> None:
        """Without `process`: one that another supervisor started, with its pid and a pidfd."""
        self.pid = process.pid if process else pid
        self._process = process
        self._system = system
        self._pidfd = system.pidfd_open(process.pid) if process else pidfd
        if not process:
            # After an exec it is our child, and whoever reaps strays leaves it to us.
            system.expect(pid)
        self._done: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        asyncio.get_running_loop().add_reader(self._pidfd, self._on_exit)

    def _on_exit(self) -> None:
        asyncio.get_running_loop().remove_reader(self._pidfd)
        os.close(self._pidfd)
        if self._process:
            status = self._system.finish(self._process)
        else:
            # Its parent may have reaped it before we look: then nobody knows, and it counts as failed.
            found = self._system.last_status(self.pid)
            status = _UNKNOWN if found is None else found
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
