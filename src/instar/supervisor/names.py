"""Who holds which handler's name, and how names move from one process to the next.

A name is held by a kernel lock, not by this table: the table only follows what the zygotes report, and decides whom
to arm and whom to release.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import signal
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from instar.errors import InstarError
from instar.handlers.lock import Contest, contest
from instar.runtime import channel
from instar.runtime.spec import HandlerSpec
from instar.supervisor.changes import Changes
from instar.supervisor.generation import Generation
from instar.supervisor.journal import Journal
from instar.supervisor.views import HandlerView

#: How long the successor of a name may take to report that it has it, once the holder is gone (seconds).
_TAKE = 10.0
#: How long another supervisor that holds a name is given before it counts as one that goes on (seconds).
_ELSEWHERE = 1.0
#: Seconds between two looks at whether another supervisor waits for a name.
_LOOK_EVERY = 0.02


class NameTakingError(InstarError):
    """A handler could not get its name."""


@dataclasses.dataclass(frozen=True)
class Moved:
    """What came of moving names."""

    taken: tuple[str, ...] = ()
    kept: tuple[str, ...] = ()


class Names:
    """Owner of the table: by name, the generation whose process holds it or is to hold it."""

    def __init__(self, journal: Journal, log: Callable[[str], None], shared: Path | None = None) -> None:
        """`shared`: folder of the lock files, when other supervisors hold names in it as well."""
        self.owner: dict[str, Generation] = {}
        self.paused: set[str] = set()
        self.changes = Changes()
        #: Names that another supervisor holds; ours are taken when it lets them go.
        self.waiting: set[str] = set()
        self._shared = shared
        self._tasks: set[asyncio.Task[None]] = set()
        #: By a name that its holder keeps: who waits for it, and the task that sees it pass.
        self._followers: dict[str, tuple[Generation, asyncio.Task[None]]] = {}
        self._journal = journal
        self._log = log

    def spec(self, name: str) -> HandlerSpec | None:
        """How a name is configured in the generation that owns it."""
        owner = self.owner.get(name)
        return next((item for item in owner.plan.handler_specs() if item.name == name), None) if owner else None

    def of(self, generation: Generation) -> list[str]:
        """Names that a generation owns."""
        return [name for name, owner in self.owner.items() if owner is generation]

    def adopt(self, generations: Sequence[Generation], live: Generation, *, arm: bool) -> None:
        """Learn who holds what after another supervisor died. `generations`: the oldest first.

        `arm`: names that nobody holds are the live generation's to take; else somebody moves them.
        """
        epochs: dict[str, int] = {}
        for generation in generations:
            for view in generation.handlers.values():
                # One that has lost the name may live on for a while: the higher epoch has it.
                if view.epoch > epochs.get(view.name, 0):
                    epochs[view.name] = view.epoch
                    self.owner[view.name] = generation
        for name in live.names:
            if name not in self.owner:
                self._assign(name, live)
            if name not in self.paused and arm and self.owner[name] is live and not live.holder(name):
                live.send(channel.ArmHandler(name))
            elif arm and self.owner[name] is not live and any(item.name == name for item in live.handlers.values()):
                # Its holder has kept it, and the successor is armed already.
                task = asyncio.create_task(self._follow_kept(name, live, None), name=f"kept {name}")
                self._followers[name] = live, task
        self.changes.notify()

    async def move_all(self, names: Iterable[str], to: Generation, progress: Callable[[str], None]) -> Moved:
        """Pass names to standbys of a generation, all at once. Raises NameTakingError when one isn't taken."""
        wanted = [name for name in names if name not in self.paused]
        for name in set(names) & self.paused:
            self._assign(name, to)
        if not wanted:
            return Moved()
        self._journal.write("names", generation=to.number, names=wanted)
        done: list[str] = []

        async def one(name: str) -> bool:
            taken = await self._move(name, to)
            done.append(name)
            progress(f"{len(done)} of {len(wanted)} names")
            return taken

        results = await asyncio.gather(*(one(name) for name in wanted), return_exceptions=True)
        for result in results:
            if isinstance(result, BaseException):
                raise result
        taken = [name for name, result in zip(wanted, results, strict=True) if result is True]
        return Moved(tuple(taken), tuple(name for name in wanted if name not in taken))

    async def _move(self, name: str, to: Generation) -> bool:
        """Pass one name on; False when its holder keeps it (`keep_name`)."""
        before = to.holders(name)
        successor = await self._standby(name, to, before)
        self._end_following(name, to)
        source = self.owner.get(name)
        spec = next(item for item in to.plan.handler_specs() if item.name == name)
        if source is not None and source is not to and (source.zygote_alive or _has_process(source, name)):
            held = next((item for item in source.plan.handler_specs() if item.name == name), spec)
            # The successor waits for the lock before the holder leaves it: the kernel passes it on at once.
            to.send(channel.ArmHandler(name))
            if not await self._release(name, source, held, successor=None):
                return self._keep(name, to, None)
        elif source is to and (keepers := [view for view in to.handlers.values() if view.pid in before]):
            to.send(channel.ArmHandler(name))
            if not await self._release(name, to, spec, successor=successor):
                return self._keep(name, to, keepers[0])
        else:
            to.send(channel.ArmHandler(name))
        self._assign(name, to)
        await self._taken(name, to, successor)
        return True

    async def _standby(self, name: str, to: Generation, besides: frozenset[int]) -> HandlerView:
        """A process that waits for the name, forked if there is none. Raises NameTakingError.

        In the generation that owns the name it is armed from the start: when the holder ends meanwhile, it has the
        name by the time that this is told of it.
        """
        # Of standbys alone: a holder that ends meanwhile only makes way.
        ended, limit = to.handler_failures.get(name, 0), to.plan.config.restart.boot_timeout

        def decided() -> bool:
            failed = not to.zygote_alive or to.handler_failures.get(name, 0) > ended
            return failed or to.standby(name, besides) is not None

        if not to.send(channel.StartHandler(name)):
            raise NameTakingError(f"cannot move {name}: the zygote of generation {to.number} is dead")
        try:
            async with asyncio.timeout(limit):
                await to.changes.until(decided)
        except TimeoutError:
            raise NameTakingError(
                f"{name} did not reach standby within {limit:g} s: does the target call wait_active()?"
            ) from None
        if view := to.standby(name, besides):
            return view
        raise NameTakingError(self._last_crash(name, to) or f"the zygote died before {name} was ready")

    def _last_crash(self, name: str, to: Generation) -> str:
        return next((text for text in reversed(to.crashes) if f" {name} " in text), "")

    def _assign(self, name: str, to: Generation) -> None:
        self.owner[name] = to
        self.changes.notify()

    def _keep(self, name: str, to: Generation, keeper: HandlerView | None) -> bool:
        """The holder goes on; its successor stays armed and takes the name at once when the holder ends.

        `keeper`: the holder, if it is one of the same generation.
        """
        self._log(f"{name} keeps its name for now: it did not release it in its stop_timeout")
        task = asyncio.create_task(self._follow_kept(name, to, keeper), name=f"kept {name}")
        self._followers[name] = to, task
        return False

    def _end_following(self, name: str, to: Generation) -> None:
        """A name that was kept moves on elsewhere: whoever waits for it would have it first."""
        waiting, task = self._followers.pop(name, (None, None))
        if waiting is None or task is None:
            return
        if not task.cancel() or waiting in (to, self.owner.get(name)):
            return
        if waiting.holder(name) is not None or (not waiting.zygote_alive and _has_process(waiting, name)):
            self._assign(name, waiting)
        else:
            waiting.send(channel.ReleaseHandler(name, False))

    async def _follow_kept(self, name: str, to: Generation, keeper: HandlerView | None) -> None:
        await to.changes.until(lambda: to.holder(name) not in (None, keeper) or to.gone())
        if to.holder(name) is not None:
            self._log(f"{name} has passed to generation {to.number}")
            self._assign(name, to)

    async def give_back(self, names: Iterable[str], source: Generation, to: Generation) -> None:
        """A rollback: names that passed, or were passing, to `source` return to fresh standbys of `to`.

        If its zygote is dead, they are its own again all the same: whoever replaces it takes them.
        """
        for name in names:
            self._end_following(name, to)
            holder = to.holder(name)
            if name in self.paused or not to.zygote_alive:
                self._assign(name, to)
            elif holder is None:
                self._assign(name, source)
            else:
                self._assign(name, to)
                # One that was asked to leave, and has kept the name until now, gets a successor of its own generation.
                to.send(channel.ArmHandler(name))
        returning = [name for name in names if self.owner.get(name) is source]
        results = await asyncio.gather(*(self._move(name, to) for name in returning), return_exceptions=True)
        for name, result in zip(returning, results, strict=True):
            if isinstance(result, BaseException):
                # Its zygote goes on trying.
                self._log(f"{name} has yet to return to generation {to.number}: {result}")
                self._assign(name, to)
                to.send(channel.ArmHandler(name))

    async def _taken(self, name: str, to: Generation, successor: HandlerView) -> None:
        if await self._held_elsewhere(name, to, successor):
            self._wait_for_others(name, to)
            return
        try:
            async with asyncio.timeout(_TAKE):
                await to.changes.until(lambda: to.holder(name) is not None or successor.pid not in to.handlers)
        except TimeoutError:
            raise NameTakingError(f"{name} was not taken within {_TAKE:g} s by generation {to.number}") from None
        if to.holder(name) is None:
            raise NameTakingError(self._last_crash(name, to) or f"{name} ended before it had its name")

    # --- other supervisors --------------------------------------------------------------------------

    def _contest(self, name: str) -> Contest:
        return contest(self._shared / f"{name}.lock") if self._shared else Contest(frozenset(), frozenset())

    async def _held_elsewhere(self, name: str, to: Generation, successor: HandlerView) -> bool:
        """Whether another supervisor has the name and goes on having it."""
        if self._shared is None:
            return False
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_ELSEWHERE):
                await to.changes.until(lambda: to.holder(name) is not None or successor.pid not in to.handlers)
        taken = self._contest(name).taken
        return to.holder(name) is None and bool(taken - set(to.handlers))

    def _wait_for_others(self, name: str, to: Generation) -> None:
        """The standby is armed and takes the name as soon as it is free; that may be never."""
        self.waiting.add(name)
        self._log(f"{name} waits: another supervisor holds the name")
        task = asyncio.create_task(self._follow_waiting(name, to), name=f"waiting {name}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _follow_waiting(self, name: str, to: Generation) -> None:
        await to.changes.until(lambda: to.holder(name) is not None or to.gone() or self.owner.get(name) is not to)
        if self.owner.get(name) is not to:
            return
        self.waiting.discard(name)
        if to.holder(name) is not None:
            self._log(f"{name} is held: the other supervisor has let it go")

    async def let_go(self, over: asyncio.Event) -> None:
        """This supervisor is leaving: its handlers work on until `over`, or until another waits for their names."""
        while not over.is_set() and self.owner:
            wanted = [name for name in self.owner if self._awaited_elsewhere(name)]
            if wanted:
                self._log(f"{', '.join(wanted)}: another supervisor waits for them")
                await self.drop(wanted)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(over.wait(), _LOOK_EVERY)

    def _awaited_elsewhere(self, name: str) -> bool:
        return bool(self._contest(name).waiting - set(self.owner[name].handlers))

    async def _release(
        self, name: str, source: Generation, spec: HandlerSpec, *, successor: HandlerView | None
    ) -> bool:
        """Ask the holder to leave and wait for its end; False when it may keep the name and does.

        `successor`: the process of the same generation that is to follow it.
        """
        holders = [view for view in source.handlers.values() if view.name == name]
        if successor:
            holders = [view for view in holders if view.epoch and view is not successor]
        for view in holders:
            view.releasing = True
        if not source.send(channel.ReleaseHandler(name, successor is not None)):
            return await self._release_orphans(source, holders, spec)

        def ended() -> bool:
            return not any(view.pid in source.handlers for view in holders)

        def over() -> bool:
            return ended() or not source.zygote_alive

        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(source.changes.until(over), spec.stop_timeout if spec.keep_name else None)
        if not ended() and not source.zygote_alive:
            return await self._release_orphans(source, holders, spec)
        return ended()

    async def _release_orphans(self, source: Generation, holders: list[HandlerView], spec: HandlerSpec) -> bool:
        """The zygote is dead: do what it would have done."""

        def ended() -> bool:
            return not any(view.pid in source.handlers for view in holders)

        for view in holders:
            source.release_orphan(view)
        steps = [(spec.stop_timeout, signal.SIGTERM), (spec.kill_timeout, signal.SIGKILL)]
        for patience, sig in steps:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(source.changes.until(ended), patience)
            if ended():
                return True
            if spec.keep_name:
                return False
            for view in holders:
                if view.pid in source.handlers:
                    source.signal_handler(view, sig)
        await source.changes.until(ended)
        return True

    async def drop(self, names: Iterable[str]) -> None:
        """Release names that no configuration has any more."""
        gone = [name for name in names if name in self.owner]

        async def one(name: str) -> None:
            owner = self.owner[name]
            spec = next(item for item in owner.plan.handler_specs() if item.name == name)
            if await self._release(name, owner, spec, successor=None):
                del self.owner[name]
                self.changes.notify()

        await asyncio.gather(*(one(name) for name in gone))

    def forget(self, generation: Generation) -> None:
        """A generation has ended: names that nobody took over from it exist no more."""
        for name in self.of(generation):
            del self.owner[name]
        self.changes.notify()

    async def renew(self, name: str, to: Generation) -> bool:
        """Pass a name to a fresh process of a generation; False when the holder keeps it. Raises InstarError."""
        if name not in self.owner:
            raise InstarError(f"cannot move {name}: there is no handler of that name; see `instar handlers list`")
        if name in self.paused:
            raise InstarError(f"cannot move {name}: it is paused; use `instar handlers resume {name}`")
        if name in self._followers and not self._followers[name][1].done():
            # Its holder keeps it, and a successor waits already: that is where it goes.
            to = self._followers[name][0]
        if name not in to.names:
            raise InstarError(
                f"cannot move {name}: generation {to.number} has no handler of that name; "
                "use `instar restart --handlers`"
            )
        self._journal.write("name", name=name, generation=to.number)
        return await self._move(name, to)

    async def pause(self, name: str) -> bool:
        """Leave a name unheld until `resume`; False when the holder keeps it."""
        spec = self.spec(name)
        if spec is None:
            raise InstarError(f"cannot pause {name}: there is no handler of that name")
        self.paused.add(name)
        self._journal.write("pause", name=name)
        if not await self._release(name, self.owner[name], spec, successor=None):
            self.paused.discard(name)
            # It was asked to leave and does so one day: then somebody has to follow.
            self.owner[name].send(channel.ArmHandler(name))
            return False
        return True

    async def resume(self, name: str, live: Generation) -> bool:
        """Let a paused name be held again."""
        if name not in self.paused:
            raise InstarError(f"cannot resume {name}: it is not paused")
        self.paused.discard(name)
        self._journal.write("resume", name=name)
        owner = self.owner.get(name, live)
        to = owner if owner.zygote_alive else live
        try:
            return await self._move(name, to)
        except InstarError:
            # The zygote goes on trying.
            self._assign(name, to)
            to.send(channel.ArmHandler(name))
            raise


def _has_process(generation: Generation, name: str) -> bool:
    """Whether a process of a name lives, holder or not: after the zygote's death nobody tells who has taken it."""
    return any(view.name == name for view in generation.handlers.values())
