"""The handover: hook → boot → probe → canary → cut-over → grace; and the way back from each of them."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import traceback
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Protocol, TypeVar

from instar.config.hook import Hook
from instar.errors import InstarError
from instar.listeners.base import Canary
from instar.runtime.scoreboard import Column, Drain
from instar.supervisor import canary
from instar.supervisor.canary import CanaryError
from instar.supervisor.draining import Draining
from instar.supervisor.frontend import Frontend
from instar.supervisor.generation import Generation
from instar.supervisor.hooks import HookError
from instar.supervisor.journal import Journal
from instar.supervisor.launch import lower_priority, restore_priority
from instar.supervisor.names import Names, NameTakingError
from instar.supervisor.plan import Parts, Plan
from instar.supervisor.probe import ProbeError
from instar.supervisor.prober import probe_generation
from instar.supervisor.report import Report
from instar.supervisor.transitions import Event
from instar.system import System

_T = TypeVar("_T")


class HandoverError(Exception):
    """The new generation can't take over; the message is the reason that people see."""


@dataclasses.dataclass(frozen=True)
class Options:
    """What one restart was asked for beyond the configuration."""

    #: End a drain that is still going on.
    now: bool = False
    #: Seconds; None: as configured.
    keep_old: float | None = None
    canary: Canary | None = None
    canary_seconds: float | None = None
    parts: Parts = dataclasses.field(default_factory=Parts)


class Host(Protocol):
    """What a handover needs of the supervisor, which owns all of it."""

    frontend: Frontend
    journal: Journal
    system: System
    live: Generation | None
    names: Names

    def launch(self, plan: Plan, parts: Parts) -> Generation:
        """Start a generation in the free slot."""

    async def free_slot(self, now: bool, progress: Callable[[str], None]) -> None:
        """Return when one of the two slots is free."""

    async def hooks(self, hooks: Sequence[Hook], plan: Plan, event: str, generation: int | None) -> None:
        """Run hooks. Raises HookError."""

    async def discard(self, generation: Generation, event: Event) -> None:
        """End a generation that is not going to serve (any more)."""

    async def booting(self, plan: Plan) -> None:
        """A generation is about to boot. Raises HookError."""

    def has_accepting(self) -> bool:
        """Whether `accepting` does anything."""

    async def accepting(self, generation: Generation) -> None:
        """New connections have begun to go to a generation. Raises HookError."""

    def became_live(self, generation: Generation, draining: Draining | None) -> None:
        """New connections go to this generation; `draining` is the one that served before."""

    def serves_names(self, generation: Generation) -> None:
        """A generation without web workers is up; it ends when it holds no name any more."""

    def log_tail(self, generation: Generation) -> list[str]:
        """Its last lines of output."""


class Handover:
    """One attempt to go from the live generation, if there is one, to a new one."""

    def __init__(self, host: Host, plan: Plan, options: Options, report: Report) -> None:
        self.host = host
        self.plan = plan
        self.options = options
        self.report = report
        self.old = host.live
        self.new: Generation | None = None
        self.error: str | None = None
        #: Names whose holders go on in the old code.
        self.kept: tuple[str, ...] = ()
        self._owners: dict[str, Generation] = {}
        self.tail: list[str] = []
        self.draining: Draining | None = None
        #: It goes on where another supervisor was killed.
        self._resumed = False
        self._grace = plan.config.restart.grace
        self._after = False
        self._abort: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    def abort(self, reason: str) -> None:
        """Give up: before the cut-over the new generation is ended, after it (in the grace period) rolled back."""
        if not self._abort.done():
            self._abort.set_result(reason)

    async def run(self) -> str:
        """Do it; returns the outcome: `done` (the drain is still to come) or `rolled-back`."""
        try:
            await self._bring_up()
            if self.options.parts.web:
                await self._try_canary()
                self._cut_over()
            else:
                self._commit()
        except (HandoverError, HookError, ProbeError, CanaryError, InstarError, OSError) as error:
            await self._give_up(_reason(error))
            return "rolled-back" if self.old else "failed"
        except Exception as error:
            # A defect of ours: whatever it is, the old generation serves on.
            self.report.explain(traceback.format_exc())
            await self._give_up(f"unexpected {type(error).__name__}: {error}")
            return "failed"
        return await self._finish()

    async def _finish(self) -> str:
        """All that comes after the cut-over."""
        try:
            await self._tell_accepting()
            await self._move_names()
            await self._settle()
        except (HandoverError, HookError, NameTakingError, OSError) as error:
            return await self._roll_back(_reason(error))
        return "done"

    # --- of a supervisor that died ------------------------------------------------------------------

    async def go_on(self, *, grace: float, after: bool) -> str:
        """Go on after the cut-over; `new`, `old` and `draining` are set. `grace`: what is left of it, in seconds;
        `after`: the hook `after` has been begun."""
        self._resumed, self._grace, self._after = True, grace, after
        return await self._finish()

    async def go_back(self, error: str, *, switched: bool) -> str:
        """Finish the way back: the old generation serves already. `switched`: the new one has served."""
        if switched and self.new is not None and self.old is not None:
            self.error = error
            self._owners = {name: self.old for name in self.new.names if name in self.old.names}
            with self.report.stage("rollback"):
                await self._return_names()
            await self.host.discard(self.new, Event.BROKE)
            await self._after_rollback()
        else:
            await self._give_up(error)
        return "rolled-back"

    # --- up to the cut-over -----------------------------------------------------------------------

    async def _bring_up(self) -> None:
        report, restart = self.report, self.plan.config.restart
        if self.old and self.options.parts.web:
            with report.stage("wait") as stage:
                await self._unless_aborted(self.host.free_slot(self.options.now, stage.progress))
        if restart.before:
            with report.stage("before"):
                number = self.old.number if self.old else None
                await self._unless_aborted(self.host.hooks(restart.before, self.plan, "before", number))
        try:
            async with asyncio.timeout(restart.boot_timeout):
                with report.stage("boot") as stage:
                    await self._boot(stage.progress)
                if self.options.parts.web:
                    with report.stage("probe") as stage:
                        await self._probe(stage.progress)
        except TimeoutError:
            where = report.stages[-1]["stage"]
            if self.new and (why := self.new.unready()):
                where += f": {why}"
            raise HandoverError(
                f"the new generation was not ready within {restart.boot_timeout:g} s ({where})"
            ) from None

    async def _boot(self, progress: Callable[[str], None]) -> None:
        await self._unless_aborted(self.host.booting(self.plan))
        self.new = new = self.host.launch(self.plan, self.options.parts)
        nice = self.plan.config.restart.boot_nice if self.old else 0
        lowered = lower_priority(new, nice, self.host.system)
        progress(f"generation {new.number} loads {self.plan.config.app.target or 'its command'}")
        await self._unless_aborted(new.changes.until(lambda: new.failure is not None or new.all_ready()))
        if new.failure:
            raise HandoverError(new.failure.error)
        new.move(Event.WORKERS_READY)
        if lowered:
            restore_priority(new, self.host.system)

    async def _probe(self, progress: Callable[[str], None]) -> None:
        assert self.new is not None  # noqa: S101 - set by _boot
        new = self.new
        probe = asyncio.ensure_future(probe_generation(self.host.frontend, new, progress))
        broken = asyncio.ensure_future(new.changes.until(lambda: new.failure is not None))
        try:
            await self._unless_aborted(asyncio.wait({probe, broken}, return_when=asyncio.FIRST_COMPLETED))
            if new.failure:
                raise HandoverError(new.failure.error)
            probe.result()
        finally:
            for task in (probe, broken):
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError, ProbeError):
                    await task

    async def _try_canary(self) -> None:
        trial = canary.trial(self.plan.config, self.options.canary, self.options.canary_seconds)
        if self.old is None or trial is None:
            return
        assert self.new is not None  # noqa: S101 - booted
        if not self.host.frontend.can_share_out:
            raise CanaryError("cannot run a canary: no address is steered by the kernel (see `instar status`); drop it")
        with self.report.stage("canary") as stage:
            self.host.journal.write("canary", generation=self.new.number)
            # Clients come: from now on a dead worker must be replaced, whatever is decided.
            self.new.commit()
            frontend = self.host.frontend
            frontend.canary = trial.canary
            frontend.workers[self.new.slot] = tuple(self.new.ready_indexes())
            try:
                frontend.apply()
                await self._unless_aborted(canary.watch(self.new, trial, stage.progress))
            finally:
                frontend.canary = None
                frontend.apply()
            stage.detail = f"{self.new.sum(Column.REQUESTS)} requests, {self.new.sum(Column.ERRORS)} errors"

    def _cut_over(self) -> None:
        """The switch. No await in here: it happens as one step."""
        assert self.new is not None  # noqa: S101 - booted
        new, frontend = self.new, self.host.frontend
        if self._abort.done():
            raise HandoverError(self._abort.result())
        if new.failure or not new.zygote_alive:
            raise HandoverError(new.failure.error if new.failure else "the new zygote died before the cut-over")
        with self.report.stage("cut-over") as stage:
            old_number = self.old.number if self.old else None
            frontend.verify(new.slot, new.number)
            self.host.journal.write("switch", generation=new.number, previous=old_number)
            frontend.switch(new.slot, new.ready_indexes())
            new.commit()
            new.move(Event.CUT_OVER)
            if self.old:
                self.draining = Draining(self.old, frontend)
                self.draining.begin()
                self.old.pause_accepting(frontend.gated)
                self.old.move(Event.SUPERSEDED)
            self.host.became_live(new, self.draining)
            stage.detail = f"generation {new.number} serves"

    def _commit(self) -> None:
        """A generation without web workers has nothing to switch."""
        assert self.new is not None  # noqa: S101 - booted
        if self._abort.done():
            raise HandoverError(self._abort.result())
        if self.new.failure or not self.new.zygote_alive:
            raise HandoverError(self.new.failure.error if self.new.failure else "the new zygote died at its start")
        self.host.journal.write("commit", generation=self.new.number)
        self.new.commit()
        self.new.move(Event.CUT_OVER)
        self.host.serves_names(self.new)

    async def _tell_accepting(self) -> None:
        """Whoever wants to act on it does so before the names move: it may be what makes their holders leave."""
        assert self.new is not None  # noqa: S101 - serving
        if self.options.parts.web and self.host.has_accepting():
            with self.report.stage("accepting"):
                await self._unless_aborted(self.host.accepting(self.new))

    async def _move_names(self) -> None:
        """Handlers: each name passes to its standby. Not to be aborted half-way; it takes as long as they may."""
        assert self.new is not None  # noqa: S101 - serving
        new, names = self.new, self.host.names
        dropped = [name for name in names.owner if self.options.parts.handlers and name not in self._configured()]
        if not new.names and not dropped:
            return
        self._owners = {name: names.owner[name] for name in new.names if name in names.owner}
        wanted = new.names
        if self._resumed:
            wanted = tuple(name for name in wanted if names.owner.get(name) is not new or not new.holder(name))
            if self.old:
                self._owners |= {name: self.old for name in new.names if name in self.old.names}
        with self.report.stage("handlers") as stage:
            moved = await names.move_all(wanted, new, stage.progress)
            await names.drop(dropped)
            self.kept = moved.kept
            stage.detail = f"{len(moved.taken)} of {len(new.names)} names moved"
            if moved.kept:
                stage.detail += f"; kept by the old code: {', '.join(moved.kept)}"
            if names.waiting:
                stage.detail += f"; another supervisor still holds {', '.join(sorted(names.waiting))}"

    def _configured(self) -> set[str]:
        return {item.name for item in self.plan.handler_specs()}

    async def _return_names(self) -> None:
        """Those that had a holder before go back to it, through fresh standbys."""
        assert self.new is not None  # noqa: S101 - serving
        for owner in set(self._owners.values()):
            if owner is not self.new:
                mine = [name for name, before in self._owners.items() if before is owner]
                await self.host.names.give_back(mine, self.new, owner)

    # --- after the cut-over -----------------------------------------------------------------------

    async def _settle(self) -> None:
        """The hook `after`, and the grace period in which a crash rolls back."""
        assert self.new is not None  # noqa: S101 - serving
        new, restart = self.new, self.plan.config.restart
        if restart.after and not self._after:
            self.host.journal.record("after", generation=new.number)
            with self.report.stage("after"):
                await self._unless_aborted(self.host.hooks(restart.after, self.plan, "after", new.number))
        if self.old is None:
            return
        with self.report.stage("grace"):
            broke = asyncio.ensure_future(new.changes.until(lambda: bool(new.crashes)))
            try:
                await self._unless_aborted(asyncio.wait({broke}, timeout=self._grace))
            finally:
                broke.cancel()
            if new.crashes:
                raise HandoverError(f"crashed within the grace period: {new.crashes[0]}")

    async def _give_up(self, error: str) -> None:
        """Nothing has been switched: the old generation never noticed."""
        self.error = error
        if self.new:
            self.tail = self.host.log_tail(self.new)
            self.host.journal.record("give-up", generation=self.new.number, error=error)
            await self.host.discard(self.new, Event.BOOT_FAILED)
            self.tail = self.host.log_tail(self.new) or self.tail
        await self._after_rollback()

    async def _roll_back(self, error: str) -> str:
        assert self.new is not None  # noqa: S101 - serving
        self.error = error
        self.tail = self.host.log_tail(self.new)
        if not self.options.parts.web and self.old is not None:
            with self.report.stage("rollback"):
                await self._return_names()
            await self.host.discard(self.new, Event.BROKE)
            await self._after_rollback()
            return "rolled-back"
        if self.old is None or self.draining is None or not self.old.alive or self.old.gone():
            # There is nothing to go back to: the new generation goes on as it can. A stop at once ends both.
            self.report.skip("rollback", "no generation to go back to")
            return "failed"
        with self.report.stage("rollback"):
            self.host.journal.record("rollback", generation=self.old.number, previous=self.new.number, error=error)
            switch_back(self.host, self.old, self.draining, None)
            await self._return_names()
        await self.host.discard(self.new, Event.BROKE)
        await self._after_rollback()
        return "rolled-back"

    async def _after_rollback(self) -> None:
        hooks = self.plan.config.restart.on_rollback
        if hooks and self.old:
            with contextlib.suppress(HookError), self.report.stage("on-rollback"):
                await self.host.hooks(hooks, self.old.plan, "on_rollback", self.old.number)

    async def _unless_aborted(self, work: Coroutine[Any, Any, _T]) -> _T:
        """Await something; raises HandoverError, and cancels it, when the handover is aborted meanwhile."""
        task = asyncio.create_task(work)
        waits: set[asyncio.Future[Any]] = {task, self._abort}
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            if not task.done():
                raise HandoverError(self._abort.result())
            return task.result()
        finally:
            if not task.done():
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError, Exception):
                    await task


def switch_back(host: Host, generation: Generation, abandoned: Draining | None, draining: Draining | None) -> None:
    """Send new connections to a generation that is still warm. One step, without await.

    `abandoned`: its drain, which ends here; `draining`: the drain of the generation that served until now, if it has
    one that others have to wait for.
    """
    if abandoned:
        abandoned.abandon()
    generation.drain(Drain.LIVE)
    generation.resume_accepting(host.frontend.gated)
    generation.move(Event.ROLLED_BACK_TO)
    host.frontend.switch(generation.slot, generation.ready_indexes())
    if draining:
        draining.generation.move(Event.SUPERSEDED)
    host.became_live(generation, draining)


def _reason(error: Exception) -> str:
    if isinstance(error, OSError):
        where = f"{error.filename}: " if error.filename else ""
        return f"cannot go on: {where}{error.strerror or error}"
    return str(error)
