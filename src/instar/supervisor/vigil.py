"""Looks after what serves: replaces a dead zygote, keeps busy and dead workers out of the kernel's choice, reaps."""

from __future__ import annotations

import asyncio
import contextlib

from instar.supervisor.balance import taking_workers
from instar.supervisor.generation import Generation
from instar.supervisor.handover import Options
from instar.supervisor.logstore import LogStore
from instar.supervisor.operations import Operations
from instar.supervisor.registry import Registry
from instar.supervisor.tasks import Tasks
from instar.supervisor.transitions import Event, GenerationState

#: Seconds between two looks at the workers' load.
_BALANCE_EVERY = 0.25
#: Pauses between tries to replace a dead zygote (seconds).
_FIRST_PAUSE, _LONGEST_PAUSE = 1.0, 30.0


class Vigil:
    """Owner of nothing: it looks, and asks the operations."""

    def __init__(self, registry: Registry, operations: Operations, log: LogStore, tasks: Tasks) -> None:
        self._registry = registry
        self._operations = operations
        self._log = log
        self._tasks = tasks
        registry.on_serving = self.watch

    def watch(self, generation: Generation) -> None:
        """Look after the zygote of a generation that begins to serve."""
        self._tasks.spawn(self._watch_zygote(generation), f"watch generation {generation.number}")

    async def balance(self) -> None:
        """Go on steering new connections to the workers that can take them."""
        registry = self._registry
        while True:
            await asyncio.sleep(_BALANCE_EVERY)
            if registry.live and registry.live.state is GenerationState.SERVING:
                registry.frontend.workers[registry.live.slot] = taking_workers(registry.live)
                with contextlib.suppress(OSError):
                    registry.frontend.apply()

    def reap_strays(self) -> None:
        """Orphans of our zygotes become our children; those that nobody waits for must not stay as zombies."""
        system = self._registry.system
        for pid in system.children():
            if not self._owns(pid) and system.is_zombie(pid):
                system.reap(pid)

    def _owns(self, pid: int) -> bool:
        if self._registry.system.spawned(pid):
            return True
        return any(pid in item.workers or pid in item.handlers for item in self._registry.generations.values())

    async def _watch_zygote(self, generation: Generation) -> None:
        """A serving generation whose zygote died goes on with the processes that it has, until it is replaced."""
        await generation.changes.until(
            lambda: not generation.zygote_alive or generation.state is not GenerationState.SERVING
        )
        pause = _FIRST_PAUSE
        while self._needed(generation) and not self._operations.closed:
            if self._operations.handover is not None:
                await asyncio.sleep(_BALANCE_EVERY)
                continue
            self._log.write(f"the zygote of generation {generation.number} died; its release is booted again")
            options = Options(now=generation.gone(), parts=generation.parts)
            report = self._operations.begin("recovery", generation.plan, options, replaces=generation)
            if (await report.wait())["outcome"] == "done":
                break
            await asyncio.sleep(pause)
            pause = min(pause * 2, _LONGEST_PAUSE)
        if not generation.parts.web and not self._registry.names.of(generation):
            await self._registry.end(generation, Event.STOPPED, 0.0)

    def _needed(self, generation: Generation) -> bool:
        serving = generation.state is GenerationState.SERVING
        return serving and (self._registry.live is generation or bool(self._registry.names.of(generation)))
