"""A zergling that is told to quit although its Emperor would start it again at once.

In the recipe's double dance B, which has no mules, makes A quit only so that the Emperor brings A back with new code.
Until then nobody does the mules' work. Here A leaves the clients to B in the same way, but its process stays, and so do
its mules: the successor that the Emperor would start is a generation, whose hooks run as those of a new process would
(they make B quit), and to which the names pass from process to process.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from instar.errors import BusyError, InstarError
from instar.supervisor.draining import Draining
from instar.supervisor.handover import Options
from instar.supervisor.supervisor import Supervisor

#: Pauses between tries when the new code doesn't come up (seconds).
_FIRST_PAUSE, _LONGEST_PAUSE = 1.0, 30.0


class Comeback:
    """One at a time; a second request while one is under way changes nothing."""

    def __init__(self, supervisor: Supervisor, leaving: Callable[[], object]) -> None:
        """`leaving` is called before clients are left to the other zergling."""
        self._supervisor = supervisor
        self._leaving = leaving
        self._under_way = False
        #: Hooks that run once are due again, with the first FIFO open.
        self.anew = False

    def begin(self) -> bool:
        """Do it instead of quitting; False when it is not possible and the instance has to end."""
        supervisor = self._supervisor
        live = supervisor.registry.live
        if supervisor.stopping or live is None or not supervisor.registry.names.owner:
            return False
        if not self._under_way:
            self._under_way = True
            supervisor.log.write("its Emperor would start it again at once: it leaves the clients and comes back anew")
            supervisor.tasks.spawn(self._run(), "come back")
        return True

    async def _run(self) -> None:
        registry, pause = self._supervisor.registry, _FIRST_PAUSE
        self._leaving()
        while not self._supervisor.stopping and registry.live is not None:
            # Each time: a rollback lets the old generation accept again.
            leaving = Draining(registry.live, registry.frontend)
            leaving.stop_accepting()
            leaving.begin()
            self.anew = True
            if await self._restart() == "done":
                break
            await asyncio.sleep(pause)
            pause = min(pause * 2, _LONGEST_PAUSE)
        self._under_way = self.anew = False

    async def _restart(self) -> str:
        operations = self._supervisor.operations
        try:
            report = operations.restart(Options())
        except BusyError:
            if operations.handover is not None:
                await operations.handover.report.wait()
            return "busy"
        except InstarError as error:
            self._supervisor.log.write(str(error))
            return "refused"
        return str((await report.wait())["outcome"])
