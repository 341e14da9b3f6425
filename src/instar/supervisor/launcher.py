"""Keeps the launcher of local jobs running, beside the generations and not below them: it outlives every handler."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Callable
from typing import Final

from instar.jobs.launcher import command
from instar.supervisor.child import Child
from instar.supervisor.plan import Plan
from instar.supervisor.statedir import StateDir, appending
from instar.system import System, describe_status

#: Pauses between two starts when it doesn't stay (seconds).
_FIRST_PAUSE: Final = 0.1
_LONGEST_PAUSE: Final = 30.0
#: One that ran so long was healthy: the next pause is the shortest again (seconds).
_HEALTHY_AFTER: Final = 10.0
#: It has nothing to finish: after this it is killed (seconds).
_PATIENCE: Final = 2.0


class JobLauncher:
    """Owner of the launcher's process, once a plan has asked for one. Jobs that it has started outlive it, and us."""

    def __init__(self, state: StateDir, system: System, log: Callable[[str], object]) -> None:
        self._state = state
        self._system = system
        self._log = log
        self._plan: Plan | None = None
        self._task: asyncio.Task[None] | None = None
        self._child: Child | None = None
        #: Its life: it leaves when this end is closed, and lingers if we die without having told it to leave.
        self._life = -1

    @property
    def pid(self) -> int | None:
        """Of the launcher; None when there is none just now."""
        return self._child.pid if self._child and self._child.running else None

    def follow(self, plan: Plan) -> None:
        """Begin to keep one, if the plan has jobs; it goes on with the interpreter and the user of the latest plan."""
        if not plan.config.jobs.pool:
            return
        self._plan = plan
        if self._task is None:
            self._task = asyncio.create_task(self._keep(), name="launcher")

    async def stop(self) -> None:
        """End it. Running jobs go on; the next supervisor's handlers find them."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
        if self._child and self._child.running:
            await self._child.stop(_PATIENCE)
        self._close()

    async def _keep(self) -> None:
        loop, pause = asyncio.get_running_loop(), _FIRST_PAUSE
        while True:
            began = loop.time()
            try:
                self._child = self._start()
                how = describe_status(await self._child.wait())
            except OSError as error:
                how = f"cannot be started: {error.strerror}"
            pause = _FIRST_PAUSE if loop.time() - began >= _HEALTHY_AFTER else pause
            self._log(
                f"the launcher of local jobs {how}; it starts again in {pause:g} s, jobs that run are not affected"
            )
            await asyncio.sleep(pause)
            pause = min(pause * 2, _LONGEST_PAUSE)

    def _start(self) -> Child:
        assert self._plan is not None  # noqa: S101 - for the type checker
        who = self._plan.credentials
        self._close()
        read, self._life = os.pipe2(os.O_CLOEXEC)
        try:
            with appending(self._state.output / "services" / "launcher.out") as output:
                return Child(
                    self._system.spawn(
                        command(self._state.launcher, read, linger=True, python=self._plan.python),
                        env={"PATH": os.environ.get("PATH", os.defpath)},
                        cwd="/",
                        output=output,
                        pass_fds=(read,),
                        rights=who,
                    ),
                    self._system,
                )
        finally:
            os.close(read)

    def _close(self) -> None:
        if self._life >= 0:
            os.close(self._life)
            self._life = -1
