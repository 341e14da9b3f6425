"""Looks after what serves: replaces a dead zygote, keeps busy and dead workers out of the kernel's choice, reaps."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable

from instar.supervisor.balance import taking_workers
from instar.supervisor.generation import Generation
from instar.supervisor.handover import Options
from instar.supervisor.logstore import LogStore
from instar.supervisor.operations import Operations
from instar.supervisor.plan import Parts
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
        #: Numbers of the generations that are looked after.
        self._watched: set[int] = set()
        registry.on_serving = self.watch

    def watch(self, generation: Generation) -> None:
        """Look after the zygote of a generation that begins to serve, or goes on for its handlers."""
        if generation.number not in self._watched:
            self._watched.add(generation.number)
            self._tasks.spawn(self._watch_zygote(generation), f"watch generation {generation.number}")

    def restore_names(self) -> None:
        """After an adoption: names whose generation died with its supervisor pass to the release that serves."""
        registry = self._registry

        def missing() -> set[str]:
            specs = registry.live.plan.handler_specs() if registry.live else ()
            return {item.pool for item in specs if item.name not in registry.names.owner}

        async def restore() -> None:
            while self._operations.handover is not None:
                await asyncio.sleep(_BALANCE_EVERY)
            if pools := missing():
                assert registry.live is not None  # noqa: S101 - it has pools
                why = f"pool {', '.join(sorted(pools))} has died with its generation: it is booted again"
                await self._recover(
                    registry.live, Parts(web=False, pools=frozenset(pools)), lambda: bool(missing()), why
                )

        self._tasks.spawn(restore(), "restore names")

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
        """A generation whose zygote died goes on with the processes that it has, until it is replaced."""
        await generation.changes.until(lambda: not generation.zygote_alive or not generation.alive)
        why = f"the zygote of generation {generation.number} died; its release is booted again"
        await self._recover(generation, None, lambda: self._needed(generation), why)
        self._watched.discard(generation.number)
        if not generation.parts.web and not self._registry.names.of(generation):
            await self._registry.end(generation, Event.STOPPED, 0.0)

    async def _recover(self, generation: Generation, parts: Parts | None, needed: Callable[[], bool], why: str) -> None:
        """Boot the release of a generation until it is there again. `parts`: of it; None: what it still has."""
        pause = _FIRST_PAUSE
        while needed() and not self._operations.closed:
            if self._operations.handover is not None:
                await asyncio.sleep(_BALANCE_EVERY)
                continue
            self._log.write(why)
            options = Options(now=generation.gone(), parts=parts or self._parts_of(generation))
            report = self._operations.begin("recovery", generation.plan, options, replaces=generation)
            if (await report.wait())["outcome"] == "done":
                return
            await asyncio.sleep(pause)
            pause = min(pause * 2, _LONGEST_PAUSE)

    def _needed(self, generation: Generation) -> bool:
        serves = generation.state is GenerationState.SERVING and self._registry.live is generation
        return serves or bool(self._registry.names.of(generation))

    def _parts_of(self, generation: Generation) -> Parts:
        if self._registry.live is generation or not generation.parts.web:
            return generation.parts
        # Another one serves the web meanwhile.
        mine = set(self._registry.names.of(generation))
        return Parts(
            web=False, pools=frozenset(item.pool for item in generation.plan.handler_specs() if item.name in mine)
        )
