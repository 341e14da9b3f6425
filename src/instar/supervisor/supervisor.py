"""The supervisor: one process with a constant pid that owns the listeners, the generations and the state.

Everything runs in one event loop, and only methods of this object change what it owns; all others ask it.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from instar.config import Config
from instar.config.hook import Hook
from instar.errors import BusyError, ConfigError, ExitCode, InstarError
from instar.listeners.base import Slot, other
from instar.runtime.scoreboard import Drain
from instar.supervisor.balance import taking_workers
from instar.supervisor.draining import Draining
from instar.supervisor.frontend import Frontend
from instar.supervisor.generation import Generation
from instar.supervisor.handover import Handover, Options, switch_back
from instar.supervisor.hooks import run_hooks
from instar.supervisor.journal import Journal
from instar.supervisor.launch import control_path, launch
from instar.supervisor.logstore import LogStore
from instar.supervisor.names import Names
from instar.supervisor.plan import Parts, Plan
from instar.supervisor.queues import Queues
from instar.supervisor.report import Report
from instar.supervisor.services import Services
from instar.supervisor.statedir import StateDir
from instar.supervisor.transitions import Event, GenerationState
from instar.system import System

#: Seconds between two looks at the workers' load.
_BALANCE_EVERY = 0.25
#: Lines of output shown when a release fails.
_TAIL = 40
#: Pauses between tries to replace a dead zygote (seconds).
_FIRST_RECOVERY_PAUSE, _LONGEST_RECOVERY_PAUSE = 1.0, 30.0
#: Generations that rollbacks can go back to.
_LINEAGE = 5
#: A stop waits so long for open requests before it ends the workers gracefully.
_STOP_DRAIN = 1.0


class Supervisor:
    """Owner of all state. `serve` is its life."""

    def __init__(
        self,
        config: Config,
        reload: Callable[[], Config],
        *,
        state: StateDir,
        frontend: Frontend,
        log: LogStore,
        collect: Callable[[], object],
        system: System,
    ) -> None:
        """`collect` brings the output that processes have written so far into `log`."""
        self.config = config
        self.state = state
        self.system = system
        self.log = log
        self.frontend = frontend
        self.journal = Journal(state.journal, system)
        self.live: Generation | None = None
        #: The generations that served, each gone back to by a rollback of the one after it; the last is live.
        self.lineage: list[Generation] = []
        self.generations: dict[int, Generation] = {}
        self.names = Names(self.journal, log.write)
        self.queues = Queues()
        self.services = Services(state.output / "services", system, log.write)
        self.pid = os.getpid()
        self.started = system.time()
        self.handover: Handover | None = None
        self.stopping = False
        self.draining: Draining | None = None
        self._reload = reload
        self._collect = collect
        self._next_number = self.journal.last_generation() + 1
        self._drained = asyncio.Event()
        self._drained.set()
        self._kept_timer: asyncio.TimerHandle | None = None
        self._stop_asked: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._replaces: Generation | None = None
        #: Handlers that a command is working on.
        self._touched: set[str] = set()
        #: Set when new connections first had somewhere to go.
        self.serving = asyncio.Event()

    # --- life -------------------------------------------------------------------------------------

    async def serve(self, announce: Callable[[Generation], None]) -> int:
        """Boot, serve until told to stop; returns the exit code. Raises InstarError when the start fails."""
        plan = Plan.of(self.config)
        self._handle_signals()
        self.journal.write("start", pid=self.pid)
        try:
            self.frontend.open(self.config)
            self.queues.ensure(self.config.queue_names())
            report = self._begin("boot", plan, Options())
            balance = self._spawn(self._balance(), "balance")
            result = await self._result(report)
            if self.live is None:
                if self.stopping:
                    return ExitCode.DONE
                raise InstarError(_start_error(result))
            announce(self.live)
            self.serving.set()
            now = await self._stop_asked
            balance.cancel()
            await self._shut_down(now)
        finally:
            self.frontend.close(list(self.frontend.listeners))
            self.journal.write("stop", pid=self.pid)
            self.journal.close()
        return ExitCode.DONE

    def _handle_signals(self) -> None:
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGHUP, self._restart_by_signal)
        for sig in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(sig, self._stop_by_signal)
        # Orphans of our zygotes become our children; those that nobody waits for must not stay as zombies.
        self.system.become_subreaper()
        loop.add_signal_handler(signal.SIGCHLD, self._reap_strays)

    def _restart_by_signal(self) -> None:
        try:
            self.restart(Options())
        except InstarError as error:
            self.log.write(str(error))

    def _stop_by_signal(self) -> None:
        self.stop(now=self.stopping)

    def _reap_strays(self) -> None:
        for pid in self.system.children():
            if not self._owns(pid) and self.system.is_zombie(pid):
                self.system.reap(pid)

    def _owns(self, pid: int) -> bool:
        return self.system.spawned(pid) or any(pid in item.workers for item in self.generations.values())

    async def _shut_down(self, now: bool) -> None:
        timeout = 0.0 if now else self.config.restart.drain_timeout
        alive = [item for item in self.generations.values() if item.alive]
        for generation in alive:
            generation.drain(Drain.END_STREAMS)
        if not now:
            await self._let_go(alive)
        await asyncio.gather(*(self._end(item, Event.STOPPED, timeout) for item in alive), self.services.stop())
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _let_go(self, generations: Sequence[Generation]) -> None:
        """Give open connections a moment to be closed politely, or until a second request to stop."""
        ends = [Draining(item, self.frontend) for item in generations]
        for end in ends:
            end.begin()
            end.generation.drain(Drain.END_STREAMS)
        await asyncio.gather(*(end.finish(_STOP_DRAIN, 0.0, lambda _: None) for end in ends))

    # --- requests ---------------------------------------------------------------------------------

    def stop(self, now: bool) -> None:
        """Begin to stop: gracefully, or at once. A second call makes it at once."""
        if self.stopping and now:
            for generation in self.generations.values():
                generation.kill()
        self.stopping = True
        if self.handover:
            self.handover.abort("the supervisor is stopping")
        if self.draining:
            self.draining.end_now()
        if not self._stop_asked.done():
            self._stop_asked.set_result(now)

    def restart(self, options: Options) -> Report:
        """Begin a handover to what is on disk now. Raises BusyError, ConfigError."""
        self._refuse_if_busy("restart")
        config = self._reload()
        self._check_unchanged(config)
        plan = Plan.of(config)
        unknown = options.parts.pools - set(config.handlers)
        if unknown:
            raise ConfigError(f"cannot restart pool {', '.join(sorted(unknown))}: there is no such pool")
        added: list[str] = []
        dropped: list[str] = []
        if options.parts.web:
            added, dropped = self.frontend.open(config)
            self.frontend.dropped = set(dropped)
        self.queues.ensure(config.queue_names())
        report = self._begin("restart", plan, options)
        if added or dropped:
            self._spawn(self._settle_binds(added, dropped, report), "settle binds")
        return report

    def rollback(self) -> Report:
        """Begin to go back: abort the handover under way, or return to the generation before. Raises InstarError."""
        if self.handover:
            self.handover.abort("aborted by `instar rollback`")
            report = Report("rollback", self.log)
            self._spawn(self._report_abort(self.handover.report, report), "rollback")
            return report
        if self.stopping or self.live is None:
            raise BusyError("cannot roll back: the supervisor is starting or stopping")
        if len(self.lineage) < 2:
            raise InstarError("cannot roll back: there was no generation before this one")
        target = self.lineage[-2]
        if target.state in (GenerationState.DRAINING, GenerationState.KEPT) and not target.gone():
            return self._swap_back(target)
        return self._begin("rollback", target.plan, Options(now=True), replaces=target)

    def renew_handler(self, name: str, *, to_live: bool) -> Report:
        """Begin to give a handler a fresh process, of its own generation or of the live one. Raises InstarError."""
        self._refuse_if_busy("touch handlers")
        owner = self.names.owner.get(name)
        target = self.live if to_live or owner is None or not owner.zygote_alive else owner
        if target is None:
            raise BusyError("cannot touch handlers: nothing serves yet")
        return self._on_handler("move" if to_live else "restart", name, self.names.renew(name, target))

    def pause_handler(self, name: str) -> Report:
        """Begin to release a name and leave it unheld. Raises InstarError."""
        self._refuse_if_busy("touch handlers")
        return self._on_handler("pause", name, self.names.pause(name))

    def resume_handler(self, name: str) -> Report:
        """Begin to let a paused name be held again. Raises InstarError."""
        self._refuse_if_busy("touch handlers")
        if self.live is None:
            raise BusyError("cannot touch handlers: nothing serves yet")
        return self._on_handler("resume", name, self.names.resume(name, self.live))

    def _on_handler(self, kind: str, name: str, work: Coroutine[Any, Any, bool]) -> Report:
        if name in self._touched:
            work.close()
            raise BusyError(f"cannot {kind} {name}: another command for it is still running; wait for it")
        report = Report(f"handler {kind}", self.log)
        self._touched.add(name)
        self._spawn(self._touch(name, work, report), f"{kind} {name}")
        return report

    async def _touch(self, name: str, work: Coroutine[Any, Any, bool], report: Report) -> None:
        error, kept = None, False
        try:
            with report.stage("handler") as stage:
                stage.progress(name)
                kept = not await work
        except InstarError as problem:
            error = str(problem)
        finally:
            self._touched.discard(name)
        outcome = "failed" if error else "done"
        self._finish(report, outcome, self.names.owner.get(name), None, error, kept=[name] if kept else [])

    def _refuse_if_busy(self, verb: str) -> None:
        if self.stopping:
            raise BusyError(f"cannot {verb}: the supervisor is stopping")
        if self._touched and verb == "restart":
            raise BusyError(f"cannot restart: {', '.join(sorted(self._touched))} is being moved; try again")
        if self.handover:
            number = self.handover.new.number if self.handover.new else self._next_number
            raise BusyError(
                f"cannot {verb}: the handover to generation {number} is still running; "
                "wait for it, or give it up with `instar rollback`"
            )

    def _check_unchanged(self, config: Config) -> None:
        fixed = {
            "app.name": (self.config.app.name, config.app.name),
            "app.user": (self.config.app.user, config.app.user),
            "app.group": (self.config.app.group, config.app.group),
        }
        for key, (old, new) in fixed.items():
            if old != new:
                raise ConfigError(
                    f"cannot change {key} from {old or 'nothing'} to {new or 'nothing'} by a restart: "
                    "it is fixed while the supervisor runs; use `instar stop` and `instar run`"
                )

    # --- handovers --------------------------------------------------------------------------------

    def _begin(self, kind: str, plan: Plan, options: Options, *, replaces: Generation | None = None) -> Report:
        """Start a handover. `replaces`: the generation whose place in the lineage the new one takes."""
        report = Report(kind, self.log)
        self.handover = Handover(self, plan, options, report)
        self._replaces = replaces
        self._spawn(self._carry_out(self.handover), kind)
        return report

    async def _report_abort(self, aborted: Report, report: Report) -> None:
        with report.stage("abort"):
            result = await self._result(aborted)
        self._finish(report, "done", self.live, self.generations.get(result["generation"]))

    async def _carry_out(self, handover: Handover) -> None:
        report, old = handover.report, handover.old
        outcome = "failed"
        try:
            outcome = await handover.run()
        finally:
            self.handover = None
            if outcome != "done":
                self._finish(report, outcome, handover.new, old, handover.error, handover.tail, handover.kept)
        if outcome == "done" and handover.new:
            self.config = handover.plan.config
            await self.services.follow(handover.plan)
            if handover.draining and old:
                keep = handover.plan.config.restart.keep_old
                keep = handover.options.keep_old if handover.options.keep_old is not None else keep
                await self._finish_drain(handover.draining, report, keep, handover.plan.config)
            if not handover.options.parts.web:
                self._spawn(self._end_when_nameless(handover.new), f"names of generation {handover.new.number}")
            self.queues.drop(set(self._queue_names()) - self._wanted_queues())
            self._finish(report, "done", handover.new, old, kept=handover.kept)

    def _queue_names(self) -> list[str]:
        return [depth.name for depth in self.queues.depths()]

    def _wanted_queues(self) -> set[str]:
        """Queues of every configuration that some process still has."""
        return {name for item in self.generations.values() for name in item.plan.config.queue_names()}

    async def _finish_drain(self, draining: Draining, report: Report, keep: float, config: Config) -> None:
        generation = draining.generation
        with report.stage("drain") as stage:
            restart = config.restart
            ended = await draining.finish(restart.drain_timeout, restart.stream_grace, stage.progress)
            stage.detail = {"limit": "ended at drain_timeout", "now": "cut short"}.get(ended, "")
            if ended == "abandoned":
                stage.detail = "it serves again"
                return
            if ended == "quiet" and keep > 0 and not self.stopping:
                self._keep(generation, keep)
            else:
                await self._retire(generation, Event.QUIET)
        self._drain_over(draining)

    async def _retire(self, generation: Generation, event: Event) -> None:
        """End a generation; while it holds names, only its web workers."""
        timeout = generation.plan.config.restart.drain_timeout
        if not self.names.of(generation):
            await self._end(generation, event, timeout)
            return
        await generation.stop_web(timeout)
        self.log.write("its web workers have ended; it goes on with its handlers", generation=generation.number)
        self._spawn(self._end_when_nameless(generation), f"names of generation {generation.number}")

    async def _end_when_nameless(self, generation: Generation) -> None:
        await self.names.changes.until(lambda: not self.names.of(generation))
        await self._end(generation, Event.STOPPED, generation.plan.config.restart.drain_timeout)

    def serves_names(self, generation: Generation) -> None:
        """A generation without web workers is up; it ends when it holds no name any more."""
        self._spawn(self._watch_zygote(generation), f"watch generation {generation.number}")

    def _keep(self, generation: Generation, seconds: float) -> None:
        self.journal.write("keep", generation=generation.number, seconds=seconds)
        generation.move(Event.QUIET_KEEP)
        generation.kept_until = self.system.time() + seconds
        self._kept_timer = asyncio.get_running_loop().call_later(seconds, self._end_kept, generation)

    def _end_kept(self, generation: Generation) -> None:
        if generation.state is GenerationState.KEPT:
            self._spawn(self._retire(generation, Event.STOPPED), "end kept")

    def _swap_back(self, target: Generation) -> Report:
        """Steer back to a generation that is still warm; the one that served until now drains."""
        report, current = Report("rollback", self.log), self.live
        if current is None:
            raise BusyError("cannot roll back: nothing serves")
        with report.stage("cut-over"):
            self.journal.write("rollback", generation=target.number, previous=current.number)
            old_draining, self.draining = self.draining, None
            draining = Draining(current, self.frontend)
            draining.begin()
            switch_back(self, target, old_draining)
            current.pause_accepting(self.frontend.gated)
            current.move(Event.SUPERSEDED)
        self.draining = draining
        self._drained.clear()
        self.config = target.plan.config
        self._spawn(self._after_swap(draining, target, current, report), "rollback")
        return report

    async def _after_swap(self, draining: Draining, target: Generation, current: Generation, report: Report) -> None:
        await self.services.follow(target.plan)
        await self._finish_drain(draining, report, 0.0, target.plan.config)
        self._finish(report, "done", target, current)

    def _finish(
        self,
        report: Report,
        outcome: str,
        generation: Generation | None,
        previous: Generation | None,
        error: str | None = None,
        tail: Sequence[str] = (),
        kept: Sequence[str] = (),
    ) -> None:
        """`generation`: the one that was to serve; `previous`: the one that served before."""
        numbers = {
            "generation": generation.number if generation else None,
            "from": previous.number if previous else None,
            "serving": self.live.number if self.live else None,
        }
        result = report.finish(outcome, numbers, error, list(tail), kept)
        entry = {key: value for key, value in result.items() if key not in ("event", "log_tail")}
        self.journal.write("result", kind=report.kind, **entry)
        self.log.write(
            f"{report.kind}: {outcome}" + (f": {error}" if error else "") + f" ({result['seconds']:.3f} s)",
            generation=numbers["serving"],
        )

    async def _result(self, report: Report) -> dict[str, Any]:
        async for event in report.watch():
            if event["event"] == "result":
                return event
        raise InstarError("cannot follow the boot: its report ended early")

    # --- what a handover asks of its host -----------------------------------------------------------

    def launch(self, plan: Plan, parts: Parts) -> Generation:
        """Start a generation in the free slot. Raises InstarError, OSError."""
        slot = self._slot_for_next()
        number, self._next_number = self._next_number, self._next_number + 1
        self.journal.write("boot", generation=number, slot=slot, release=plan.release)
        generation = launch(
            plan,
            number,
            slot,
            parts=parts,
            frontend=self.frontend,
            queues=self.queues,
            state=self.state,
            system=self.system,
            note=self._note,
        )
        self.generations[number] = generation
        return generation

    def _slot_for_next(self) -> Slot:
        if self.live is None:
            return self.frontend.live
        # With nobody left to accept them, the connections that wait in its sockets are the new generation's.
        if self.live.gone() and self.frontend.all_steered:
            return self.live.slot
        return other(self.live.slot)

    async def free_slot(self, now: bool, progress: Callable[[str], None]) -> None:
        """Wait until the old generation of an earlier handover is gone; end a kept one."""
        if self.draining:
            progress(f"generation {self.draining.generation.number} is still draining")
            if now:
                self.draining.end_now()
        await self._drained.wait()
        for generation in list(self.generations.values()):
            if generation.state is GenerationState.KEPT:
                await self._retire(generation, Event.STOPPED)
            elif not generation.alive:
                await generation.changes.until(generation.gone)

    async def hooks(self, hooks: Sequence[Hook], plan: Plan, event: str, generation: int | None) -> None:
        """Run hooks; their output is kept like that of a service. Raises HookError."""
        folder = self.state.output / "services"
        folder.mkdir(mode=0o700, exist_ok=True)
        env = {"INSTAR_HOOK": event, "INSTAR_GENERATION": str(generation or ""), "INSTAR_APP": plan.config.app.name}
        await run_hooks(hooks, plan, folder / "hooks.out", env, self.system)

    def became_live(self, generation: Generation) -> None:
        """New connections go to this generation from now on."""
        generation.kept_until = None
        if generation in self.lineage:
            del self.lineage[self.lineage.index(generation) + 1 :]
        else:
            if self._replaces in self.lineage:
                del self.lineage[self.lineage.index(self._replaces) :]
            self.lineage = [*self.lineage, generation][-_LINEAGE:]
        self.live = generation
        self._spawn(self._watch_zygote(generation), f"watch generation {generation.number}")
        if self.handover and self.handover.draining and self.handover.new is generation:
            self.draining = self.handover.draining
            self._drained.clear()

    async def discard(self, generation: Generation, event: Event) -> None:
        """End a generation that won't serve (any more); what it still answers it may finish."""
        broke = event is Event.BROKE or generation.committed
        generation.move(event)
        if broke:
            draining = Draining(generation, self.frontend)
            draining.begin()
            generation.drain(Drain.END_STREAMS)
            await draining.finish(generation.plan.config.restart.drain_timeout, 0.0, lambda _: None)
        if self.draining and self.draining.abandoned:
            self._drain_over(self.draining)
        await self._remove(generation, generation.plan.config.restart.drain_timeout)

    def log_tail(self, generation: Generation) -> list[str]:
        """Its last lines of output."""
        self._collect()
        return [record.text for record in self.log.tail(_TAIL, generation=generation.number)]

    # --- generations --------------------------------------------------------------------------------

    def _drain_over(self, draining: Draining) -> None:
        if self.draining is draining:
            self.draining = None
            self._drained.set()

    async def _end(self, generation: Generation, event: Event, timeout: float) -> None:
        if generation.alive:
            self.journal.write("end", generation=generation.number)
            generation.move(event)
            await self._remove(generation, timeout)

    async def _remove(self, generation: Generation, timeout: float) -> None:
        # A failed or finished generation answers nobody any more: its grace is what its requests still need.
        await generation.stop(timeout)
        control_path(self.state, generation.number).unlink(missing_ok=True)
        if generation.parts.web and not self._slot_in_use(generation.slot):
            self.frontend.release(generation.slot)
        generation.close()
        self.generations.pop(generation.number, None)

    def _slot_in_use(self, slot: Slot) -> bool:
        others = [item for item in self.generations.values() if item.slot == slot and item.parts.web and item.workers]
        return self.frontend.live == slot or bool(others)

    async def _watch_zygote(self, generation: Generation) -> None:
        """A serving generation whose zygote died goes on with the processes that it has, until it is replaced."""
        await generation.changes.until(
            lambda: not generation.zygote_alive or generation.state is not GenerationState.SERVING
        )
        pause = _FIRST_RECOVERY_PAUSE
        while self._needed(generation) and not self.stopping:
            if self.handover is None:
                self.log.write(f"the zygote of generation {generation.number} died; its release is booted again")
                report = self._begin("recovery", generation.plan, Options(now=generation.gone()), replaces=generation)
                if (await self._result(report))["outcome"] == "done":
                    return
                await asyncio.sleep(pause)
                pause = min(pause * 2, _LONGEST_RECOVERY_PAUSE)
            else:
                await asyncio.sleep(_BALANCE_EVERY)

    def _needed(self, generation: Generation) -> bool:
        serving = generation.state is GenerationState.SERVING
        return serving and (self.live is generation or bool(self.names.of(generation)))

    async def _balance(self) -> None:
        """Keep dead, full and stuck workers out of the kernel's choice."""
        while True:
            await asyncio.sleep(_BALANCE_EVERY)
            if self.live and self.live.state is GenerationState.SERVING:
                self.frontend.workers[self.live.slot] = taking_workers(self.live)
                with contextlib.suppress(OSError):
                    self.frontend.apply()

    async def _settle_binds(self, added: list[str], dropped: list[str], report: Report) -> None:
        """Close what the configuration dropped once the old generation needs it no more; after a rollback, what
        it added."""
        result = await self._result(report)
        done = result["outcome"] == "done"
        if not done:
            self.frontend.dropped.clear()
        self.frontend.close(dropped if done else added)

    def _note(self, generation: Generation, action: str, text: str) -> None:
        self.log.write(text, generation=generation.number)

    def _spawn(self, work: Any, name: str) -> asyncio.Task[Any]:
        task: asyncio.Task[Any] = asyncio.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task


def _start_error(result: dict[str, Any]) -> str:
    lines = "".join(f"\n  {line}" for line in result["log_tail"])
    return f"cannot start: {result['error']}" + (f"\nLast output:{lines}" if lines else "")
