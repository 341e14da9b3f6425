"""All generations: started, drained, kept, ended; which one is live, and which came before it."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Callable, Sequence

from instar.config import Config
from instar.config.hook import Hook
from instar.listeners.base import Slot, other
from instar.runtime.scoreboard import Drain
from instar.supervisor import jobs
from instar.supervisor.contact import Contact
from instar.supervisor.draining import Draining
from instar.supervisor.frontend import Frontend
from instar.supervisor.generation import Generation
from instar.supervisor.hooks import run_hooks
from instar.supervisor.interrupted import read_story
from instar.supervisor.journal import Journal
from instar.supervisor.launch import control_path, launch
from instar.supervisor.launcher import JobLauncher
from instar.supervisor.logstore import LogStore
from instar.supervisor.names import Names
from instar.supervisor.plan import Parts, Plan
from instar.supervisor.queues import Queues
from instar.supervisor.record import Process, Record, Records
from instar.supervisor.report import Report
from instar.supervisor.seams import Seams
from instar.supervisor.statedir import StateDir
from instar.supervisor.tasks import Tasks
from instar.supervisor.transitions import Event, GenerationState
from instar.system import System

#: Lines of output shown when a release fails.
_TAIL = 40
#: Time for a generation that had no clients to end (seconds).
_NEVER_SERVED = 1.0
#: Generations that rollbacks can go back to.
_LINEAGE = 5


@dataclasses.dataclass(frozen=True)
class Outside:
    """What the generations live in."""

    state: StateDir
    frontend: Frontend
    log: LogStore
    #: Brings the output that processes have written so far into `log`.
    collect: Callable[[], object]
    #: Told of generations whose output nobody writes any more.
    retire_output: Callable[[int], object]
    system: System
    seams: Seams = dataclasses.field(default_factory=Seams)


class Registry:
    """Owner of the generations. The host of handovers: what they ask for is done here."""

    def __init__(self, outside: Outside, journal: Journal, tasks: Tasks) -> None:
        self.frontend = outside.frontend
        self.system = outside.system
        self.state = outside.state
        #: Brings the output that processes have written so far into the log.
        self.collect = outside.collect
        self.journal = journal
        self.names = Names(journal, outside.log.write, shared=outside.seams.handler_dir)
        self.queues = Queues()
        self.live: Generation | None = None
        #: The generations that served, each gone back to by a rollback of the one after it; the last is live.
        self.lineage: list[Generation] = []
        self.generations: dict[int, Generation] = {}
        #: The generation that is being sent its clients away, if one is.
        self.draining: Draining | None = None
        #: Whose place in the lineage the next live generation takes.
        self.replaces: Generation | None = None
        #: A handover may still be rolled back: names may return to generations that have none at the moment.
        self.unsettled = False
        self.launcher = JobLauncher(outside.state, outside.system, outside.log.write)
        self.records = Records(outside.state.control)
        self.next_number = max([journal.last_generation(), *self.records.numbers()]) + 1
        #: Called when a generation begins to serve, or goes on for its handlers.
        self.on_serving: Callable[[Generation], None] = lambda _: None
        #: Called when a process of a generation asks for something (`reload`, `stop`).
        self.on_asked: Callable[[Generation, str], None] = lambda _generation, _what: None
        self._outside = outside
        self._tasks = tasks
        self.names.paused |= read_story(journal.entries()).paused
        self._drained = asyncio.Event()
        self._drained.set()

    # --- asked by handovers -------------------------------------------------------------------------

    def launch(self, plan: Plan, parts: Parts) -> Generation:
        """Start a generation in the free slot. Raises InstarError, OSError."""
        slot = self._slot_for_next()
        self.launcher.follow(plan)
        number, self.next_number = self.next_number, self.next_number + 1
        self.journal.write("boot", generation=number, slot=slot, release=plan.release)
        generation = launch(
            plan,
            number,
            slot,
            parts=parts,
            frontend=self.frontend,
            queues=self.queues,
            state=self._outside.state,
            handler_dir=self._outside.seams.handler_dir,
            system=self.system,
            note=self._note,
        )
        self._look_after(generation)
        return generation

    def adopt(self, contact: Contact, state: GenerationState) -> Generation:
        """Make a generation whose supervisor died one of ours."""
        record = contact.record
        generation = Generation(
            record.number, record.slot, record.plan, record.parts, self.system, self._note, adopted=contact
        )
        self._look_after(generation)
        generation.take_over(contact, state, self.system.time())
        return generation

    def remember(self, record: Record) -> Generation:
        """A generation that has ended, which a rollback may want to boot again."""
        generation = Generation(record.number, record.slot, record.plan, record.parts, self.system, self._note)
        generation.state = GenerationState.STOPPED
        generation.close()
        return generation

    def _look_after(self, generation: Generation) -> None:
        processes = self.records.processes(generation.number)
        generation.on_asked = lambda what: self.on_asked(generation, what)
        generation.on_forked = lambda pid: processes.add(Process(pid, self.system.start_time(pid)))
        self.generations[generation.number] = generation

    async def free_slot(self, now: bool, progress: Callable[[str], None]) -> None:
        """Wait until the old generation of an earlier handover is gone; end a kept one."""
        if self.draining:
            progress(f"generation {self.draining.generation.number} is still draining")
            if now:
                self.draining.end_now()
        await self._drained.wait()
        for generation in list(self.generations.values()):
            if generation.state is GenerationState.KEPT:
                await self.retire(generation, Event.STOPPED)
            elif not generation.alive:
                await generation.changes.until(generation.gone)

    async def hooks(self, hooks: Sequence[Hook], plan: Plan, event: str, generation: int | None) -> None:
        """Run hooks; their output is kept like that of a service. Raises HookError."""
        folder = self._outside.state.output / "services"
        env = {"INSTAR_HOOK": event, "INSTAR_GENERATION": str(generation or ""), "INSTAR_APP": plan.config.app.name}
        await run_hooks(hooks, plan, folder / "hooks.out", env, self.system)

    def notes(self) -> list[str]:
        """What those around the supervisor say of themselves."""
        return self._outside.seams.notes()

    async def booting(self, plan: Plan) -> None:
        """Before a generation boots. Raises HookError."""
        if self._outside.seams.booting:
            await self._outside.seams.booting(plan.config, self.next_number)

    def has_accepting(self) -> bool:
        """Whether somebody wants to hear of new connections."""
        return self._outside.seams.accepting is not None

    async def accepting(self, generation: Generation) -> None:
        """New connections have begun to go to a generation. Raises HookError."""
        if self._outside.seams.accepting:
            await self._outside.seams.accepting(generation.plan.config, generation.number)

    def became_live(self, generation: Generation, draining: Draining | None) -> None:
        """New connections go to this generation from now on; `draining` is the one that served before."""
        generation.kept_until = None
        self.lead(generation)
        if draining:
            self.drains(draining)
        self.on_serving(generation)

    def lead(self, generation: Generation) -> None:
        """Put a generation at the end of the lineage."""
        if generation in self.lineage:
            del self.lineage[self.lineage.index(generation) + 1 :]
        else:
            if self.replaces in self.lineage:
                del self.lineage[self.lineage.index(self.replaces) :]
            self.lineage = [*self.lineage, generation][-_LINEAGE:]
        self.live = generation
        self.journal.record("lineage", generation=generation.number, generations=[item.number for item in self.lineage])

    def drains(self, draining: Draining) -> None:
        """A generation is being sent its clients away; the next one has to wait for that."""
        self.draining = draining
        self._drained.clear()

    def serves_names(self, generation: Generation) -> None:
        """A generation without web workers is up."""
        self.on_serving(generation)

    async def discard(self, generation: Generation, event: Event) -> None:
        """End a generation that won't serve (any more); what it still answers it may finish."""
        if not generation.alive:
            # A stop was quicker.
            return
        served = event is Event.BROKE or generation.committed
        generation.move(event)
        limit = generation.plan.config.restart.drain_timeout if served else _NEVER_SERVED
        if served:
            draining = Draining(generation, self.frontend)
            draining.begin()
            generation.drain(Drain.END_STREAMS)
            await draining.finish(limit, 0.0, lambda _: None)
        if self.draining and self.draining.abandoned:
            self.drain_over(self.draining)
        if generation.loaded is None:
            # It hangs in the import, where it hears nobody.
            generation.kill()
        await self._remove(generation, limit)

    def log_tail(self, generation: Generation) -> list[str]:
        """Its last lines of output."""
        self._outside.collect()
        return [record.text for record in self._outside.log.tail(_TAIL, generation=generation.number)]

    # --- the way out --------------------------------------------------------------------------------

    async def finish_drain(self, draining: Draining, report: Report, keep: float, config: Config) -> None:
        """Wait for the last client of the old generation, then end it or keep it for `keep` seconds."""
        generation = draining.generation
        with report.stage("drain") as stage:
            restart = config.restart
            ended = await draining.finish(restart.drain_timeout, restart.stream_grace, stage.progress)
            stage.detail = {"limit": "ended at drain_timeout", "now": "cut short"}.get(ended, "")
            if ended == "abandoned":
                stage.detail = "it serves again"
                return
            if ended == "quiet" and keep > 0:
                self._keep(generation, keep)
            else:
                await self.retire(generation, Event.QUIET)
        self.drain_over(draining)

    def drain_over(self, draining: Draining) -> None:
        """The other slot is free again."""
        if self.draining is draining:
            self.draining = None
            self._drained.set()

    async def retire(self, generation: Generation, event: Event) -> None:
        """End a generation; while it holds names, only its web workers."""
        timeout = generation.plan.config.restart.drain_timeout
        if not self.names.of(generation):
            await self.end(generation, event, timeout)
            return
        self.journal.record("web-ended", generation=generation.number)
        await generation.stop_web(timeout)
        self._note(generation, "web_ended", "its web workers have ended; it goes on with its handlers")
        self.end_when_nameless(generation)

    def end_when_nameless(self, generation: Generation) -> None:
        """Let a generation go on for its handlers only."""
        self.on_serving(generation)

        async def wait() -> None:
            await self.names.changes.until(lambda: not self.unsettled and not self.names.of(generation))
            await self.end(generation, Event.STOPPED, generation.plan.config.restart.drain_timeout)

        self._tasks.spawn(wait(), f"names of generation {generation.number}")

    def settle(self) -> None:
        """The handover is over, one way or the other."""
        self.unsettled = False
        self.names.changes.notify()

    async def end(self, generation: Generation, event: Event, timeout: float) -> None:
        """End all processes of a generation; nothing happens when it has ended."""
        if generation.alive:
            self.journal.record("end", generation=generation.number)
            generation.move(event)
            await self._remove(generation, timeout)

    def _keep(self, generation: Generation, seconds: float) -> None:
        self.journal.record("keep", generation=generation.number, seconds=seconds)
        generation.move(Event.QUIET_KEEP)
        self.keep_on(generation, seconds)

    def keep_on(self, generation: Generation, seconds: float) -> None:
        """End a kept generation later."""
        generation.kept_until = self.system.time() + seconds
        asyncio.get_running_loop().call_later(seconds, self._end_kept, generation)

    def _end_kept(self, generation: Generation) -> None:
        over = generation.kept_until is not None and self.system.time() >= generation.kept_until
        if generation.state is GenerationState.KEPT and over:
            self._tasks.spawn(self.retire(generation, Event.STOPPED), "end kept")

    async def _remove(self, generation: Generation, timeout: float) -> None:
        await generation.stop(timeout)
        control_path(self._outside.state, generation.number).unlink(missing_ok=True)
        jobs.document(self._outside.state, generation.number).unlink(missing_ok=True)
        if generation.parts.web and not self._slot_in_use(generation.slot):
            self.frontend.release(generation.slot)
        generation.close()
        self.names.forget(generation)
        self.generations.pop(generation.number, None)
        self.records.keep({*self.generations, *(item.number for item in self.lineage)})
        self._outside.retire_output(generation.number)

    def _slot_for_next(self) -> Slot:
        if self.live is None:
            return self.frontend.live
        # With nobody left to accept them, the connections that wait in its sockets are the new generation's.
        if self.live.gone() and self.frontend.all_steered:
            return self.live.slot
        return other(self.live.slot)

    def _slot_in_use(self, slot: Slot) -> bool:
        others = [item for item in self.generations.values() if item.slot == slot and item.parts.web and item.workers]
        return self.frontend.live == slot or bool(others)

    def _note(self, generation: Generation, action: str, text: str) -> None:
        self._outside.log.write(text, generation=generation.number)
