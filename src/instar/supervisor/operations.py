"""What people ask of a running application: restart, rollback, commands for single handlers. One handover at a time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any

from instar.config import Config
from instar.errors import BusyError, ConfigError, InstarError
from instar.runtime import channel
from instar.supervisor.draining import Draining
from instar.supervisor.generation import Generation
from instar.supervisor.handover import Handover, Options, switch_back
from instar.supervisor.interrupted import read_story
from instar.supervisor.logstore import LogStore
from instar.supervisor.plan import Plan
from instar.supervisor.registry import Registry
from instar.supervisor.report import Report
from instar.supervisor.services import Services
from instar.supervisor.tasks import Tasks
from instar.supervisor.transitions import GenerationState

#: Seconds between two looks at whether all is quiet.
_LOOK_EVERY = 0.05


class Operations:
    """Owner of the operations under way. Each request begins one and returns its report, or is refused."""

    def __init__(
        self,
        config: Config,
        reload: Callable[[], Config],
        registry: Registry,
        services: Services,
        log: LogStore,
        tasks: Tasks,
    ) -> None:
        #: Of the generation that serves.
        self.config = config
        self.handover: Handover | None = None
        self.closed = False
        #: The supervisor is becoming another version: nothing else may begin.
        self.upgrading = False
        self._reload = reload
        self._registry = registry
        self._services = services
        self._log = log
        self._tasks = tasks
        #: Told of each operation that begins.
        self.on_begin: Callable[[Report], object] = lambda _: None
        #: Handlers that a command is working on.
        self._touched: set[str] = set()

    # --- requests ---------------------------------------------------------------------------------

    def restart(self, options: Options) -> Report:
        """Begin a handover to what is on disk now. Raises BusyError, ConfigError."""
        self._refuse_if_busy("restart")
        config = self._reload()
        self._check_unchanged(config)
        plan = Plan.of(config)
        if unknown := options.parts.pools - set(config.handlers):
            raise ConfigError(f"cannot restart pool {', '.join(sorted(unknown))}: there is no such pool")
        added: list[str] = []
        dropped: list[str] = []
        if options.parts.web:
            added, dropped = self._registry.frontend.open(config)
            self._registry.frontend.dropped = set(dropped)
        self._registry.queues.ensure(config.queue_names())
        report = self.begin("restart", plan, options)
        if added or dropped:
            self._tasks.spawn(self.settle_binds(added, dropped, report), "settle binds")
        return report

    def rollback(self) -> Report:
        """Begin to go back: abort the handover under way, or return to the generation before. Raises InstarError."""
        lineage = self._registry.lineage
        if self.handover:
            self.handover.abort("aborted by `instar rollback`")
            report = Report("rollback", self._log)
            self._tasks.spawn(self._report_abort(self.handover.report, report), "rollback")
            return report
        if self.closed or self._registry.live is None:
            raise BusyError("cannot roll back: the supervisor is starting or stopping")
        if self.upgrading:
            raise BusyError("cannot roll back: an upgrade of instar is running; wait for it")
        if len(lineage) < 2:
            raise InstarError("cannot roll back: there was no generation before this one")
        target = lineage[-2]
        if target.state in (GenerationState.DRAINING, GenerationState.KEPT) and target.workers:
            return self._swap_back(target, self._registry.live)
        return self.begin("rollback", target.plan, Options(now=True), replaces=target)

    def renew_handler(self, name: str, *, to_live: bool) -> Report:
        """Begin to give a handler a fresh process, of its own generation or of the live one. Raises InstarError."""
        self._refuse_if_busy("touch handlers")
        owner, live = self._registry.names.owner.get(name), self._live()
        target = live if to_live or owner is None or not owner.zygote_alive else owner
        return self._on_handler("move" if to_live else "restart", name, self._registry.names.renew(name, target))

    def pause_handler(self, name: str) -> Report:
        """Begin to release a name and leave it unheld. Raises InstarError."""
        self._refuse_if_busy("touch handlers")
        return self._on_handler("pause", name, self._registry.names.pause(name))

    def resume_handler(self, name: str) -> Report:
        """Begin to let a paused name be held again. Raises InstarError."""
        self._refuse_if_busy("touch handlers")
        return self._on_handler("resume", name, self._registry.names.resume(name, self._live()))

    def recycle_workers(self) -> Report:
        """Begin to replace the web workers, without loss, one after the other, in the same code. Raises InstarError."""
        self._refuse_if_busy("recycle workers")
        report = Report("recycle workers", self._log)
        self.on_begin(report)
        self._tasks.spawn(self._recycle(self._live(), report), "recycle workers")
        return report

    def pause_accepting(self, paused: bool) -> bool:
        """Leave new connections waiting in the sockets, or take them again; whether that changed anything.

        A restart takes them again. Raises InstarError.
        """
        self._refuse_if_busy("pause" if paused else "resume")
        live = self._live()
        if live.plan.config.web.engine in ("command", "uwsgi"):
            raise ConfigError("cannot pause: a server that is a program of its own can't be told to stop accepting")
        if live.paused == paused:
            return False
        live.paused = paused
        live.pause_accepting(gated=True) if paused else live.resume_accepting(gated=True)
        self._log.write("new connections wait" if paused else "new connections are taken again")
        return True

    def close(self, reason: str) -> None:
        """Take no more requests; give the handover under way up."""
        self.closed = True
        if self.handover:
            self.handover.abort(reason)

    def _live(self) -> Generation:
        if self._registry.live is None:
            raise BusyError("cannot do that: nothing serves yet; try again")
        return self._registry.live

    def _refuse_if_busy(self, verb: str) -> None:
        self.refuse_if_stopping(verb)
        if self.upgrading:
            raise BusyError(f"cannot {verb}: an upgrade of instar is running; wait for it")
        if self._touched and verb in ("restart", "upgrade"):
            raise BusyError(f"cannot {verb}: {', '.join(sorted(self._touched))} is being moved; try again")
        if self.handover:
            number = self.handover.new.number if self.handover.new else self._registry.next_number
            raise BusyError(
                f"cannot {verb}: the handover to generation {number} is still running; "
                "wait for it, or give it up with `instar rollback`"
            )

    def refuse_if_stopping(self, verb: str) -> None:
        """Raises BusyError."""
        if self.closed:
            raise BusyError(f"cannot {verb}: the supervisor is stopping")

    def refuse_if_not_quiet(self, verb: str) -> None:
        """The same, and for a handover that nobody asked for. Raises BusyError."""
        self.refuse_if_stopping(verb)
        if self.handover or self._under_way():
            raise BusyError(f"cannot {verb}: something else has begun meanwhile; try again")

    def _check_unchanged(self, config: Config) -> None:
        for key in ("name", "user", "group", "deploy_group"):
            old, new = getattr(self.config.app, key), getattr(config.app, key)
            if old != new:
                raise ConfigError(
                    f"cannot change app.{key} from {old or 'nothing'} to {new or 'nothing'} by a restart: "
                    "it is fixed while the supervisor runs; use `instar stop` and `instar run`"
                )

    # --- handovers --------------------------------------------------------------------------------

    def begin(self, kind: str, plan: Plan, options: Options, *, replaces: Generation | None = None) -> Report:
        """Start a handover. `replaces`: the generation whose place in the lineage the new one takes."""
        report = Report(kind, self._log, options.parts.listed())
        report.op = self._journal_begin(kind, options, self._registry.live)
        self.on_begin(report)
        self.handover = Handover(self._registry, plan, options, report)
        self._registry.replaces, self._registry.unsettled = replaces, True
        self._tasks.spawn(self._carry_out(self.handover, self.handover.run()), kind)
        return report

    def _journal_begin(self, kind: str, options: Options, old: Generation | None, *, swap: bool = False) -> int:
        parts = options.parts
        try:
            return self._registry.journal.write(
                "begin",
                kind=kind,
                web=parts.web,
                handlers=parts.handlers,
                pools=sorted(parts.pools),
                keep_old=options.keep_old,
                swap=swap,
                old=old.number if old else None,
            )
        except OSError as error:
            raise InstarError(
                f"cannot begin a {kind}: the journal in the state directory can't be written: {error.strerror}; "
                "make room there and try again"
            ) from error

    def resume(self, handover: Handover, work: Coroutine[Any, Any, str]) -> None:
        """Go on with a handover in which another supervisor was killed."""
        self.handover = handover
        self._registry.unsettled = True
        self._tasks.spawn(self._carry_out(handover, work), handover.report.kind)

    def resume_drain(self, handover: Handover) -> None:
        """The same, where only the drain is left to do."""
        self._tasks.spawn(self._conclude(handover), handover.report.kind)

    def resume_swap(self, draining: Draining, target: Generation, current: Generation, report: Report) -> None:
        """The same, for the way back to a generation that was warm."""
        self._tasks.spawn(self._after_swap(draining, target, current, report), report.kind)

    def conclude(self, report: Report, outcome: str, error: str, generation: Generation | None) -> None:
        """An operation of another supervisor that ends here."""
        self._finish(report, outcome, generation, None, error)

    async def _carry_out(self, handover: Handover, work: Coroutine[Any, Any, str]) -> None:
        report, old = handover.report, handover.old
        outcome = "failed"
        try:
            outcome = await work
        finally:
            new = handover.new
            self.handover = None
            self._registry.settle()
            if outcome != "done":
                self._finish(report, outcome, new, old, handover.error, handover.tail, handover.kept)
        if outcome == "failed" and new and self._registry.live is new:
            # The first generation, which has none to go back to: it serves as it can.
            self.config = handover.plan.config
            await self._services.follow(handover.plan)
        if outcome == "done" and new:
            self._registry.journal.record("settled", generation=new.number)
            self.config = handover.plan.config
            await self._services.follow(handover.plan)
            await self._conclude(handover)

    async def _conclude(self, handover: Handover) -> None:
        await self._finish_drain(handover)
        if handover.new and not handover.options.parts.web:
            self._registry.end_when_nameless(handover.new)
        self._drop_queues()
        self._finish(handover.report, "done", handover.new, handover.old, kept=handover.kept)

    async def _finish_drain(self, handover: Handover) -> None:
        config, keep = handover.plan.config, handover.options.keep_old
        if handover.draining:
            keep = config.restart.keep_old if keep is None else keep
            keep = 0.0 if self.closed else keep
            await self._registry.finish_drain(handover.draining, handover.report, keep, config)

    def _drop_queues(self) -> None:
        """Close the queues that no configuration of a living generation names."""
        queues, generations = self._registry.queues, self._registry.generations.values()
        wanted = {name for item in generations for name in item.plan.config.queue_names()}
        for name in queues.drop({depth.name for depth in queues.depths()} - wanted):
            self._log.write(f"the queue {name} was dropped with messages in it: no pool or handler has that name now")

    async def _report_abort(self, aborted: Report, report: Report) -> None:
        with report.stage("abort"):
            result = await aborted.wait()
        self._finish(report, "done", self._registry.live, self._registry.generations.get(result["generation"]))

    def _swap_back(self, target: Generation, current: Generation) -> Report:
        """Steer back to a generation that is still warm; the one that served until now drains."""
        report, registry = Report("rollback", self._log), self._registry
        report.op = self._journal_begin("rollback", Options(), current, swap=True)
        self.on_begin(report)
        with report.stage("cut-over"):
            registry.journal.record("switch", generation=target.number, previous=current.number)
            abandoned, registry.draining = registry.draining, None
            draining = Draining(current, registry.frontend)
            draining.begin()
            switch_back(registry, target, abandoned, draining)
            current.pause_accepting(registry.frontend.gated)
        self.config = target.plan.config
        self._tasks.spawn(self._after_swap(draining, target, current, report), "rollback")
        return report

    async def _after_swap(self, draining: Draining, target: Generation, current: Generation, report: Report) -> None:
        names = [name for name in self._registry.names.of(current) if name in target.names]
        if names and target.zygote_alive:
            with report.stage("handlers"):
                await self._registry.names.give_back(names, current, target)
        await self._services.follow(target.plan)
        await self._registry.finish_drain(draining, report, 0.0, target.plan.config)
        self._finish(report, "done", target, current)

    async def settle_binds(self, added: list[str], dropped: list[str], report: Report) -> None:
        """Close what the configuration dropped once the old generation needs it no more; after a rollback, what
        it added."""
        done = (await report.wait())["outcome"] == "done"
        if not done:
            self._registry.frontend.dropped.clear()
        self._registry.frontend.close(dropped if done else added)
        self._registry.frontend.keep()

    # --- upgrades -----------------------------------------------------------------------------------

    def begin_upgrade(self, version: str, command: str) -> Report:
        """Refuse all else from now on, for the way of the supervisor into another version. Raises BusyError."""
        self._refuse_if_busy("upgrade")
        if self._registry.live is None:
            raise BusyError("cannot upgrade: nothing serves yet; try again")
        report = Report("upgrade", self._log)
        report.op = self._registry.journal.write("upgrade", version=version, command=command)
        self.upgrading = True
        self.on_begin(report)
        return report

    async def quiet(self) -> None:
        """Wait until every operation has its result."""
        while self._under_way():
            await asyncio.sleep(_LOOK_EVERY)

    def _under_way(self) -> bool:
        return bool(self._registry.draining or read_story(self._registry.journal.entries()).operations)

    def end_upgrade(self, report: Report, result: Mapping[str, Any], tail: Sequence[str]) -> None:
        """It has changed nothing."""
        self.upgrading = False
        report.end(result, tail)
        self._registry.journal.record("result", kind=report.kind, began=report.op, **result)
        self._log.write(f"upgrade: {result['outcome']}: {result['error']}")

    # --- workers ------------------------------------------------------------------------------------

    async def _recycle(self, live: Generation, report: Report) -> None:
        error = None
        try:
            with report.stage("workers") as stage:
                for index in range(live.size):
                    stage.progress(f"{index} of {live.size} workers")
                    await self._replace_worker(live, index)
                stage.detail = f"{live.size} workers"
        except InstarError as problem:
            error = str(problem)
        self._finish(report, "failed" if error else "done", live, live, error)

    async def _replace_worker(self, live: Generation, index: int) -> None:
        before = {pid for pid, view in live.workers.items() if view.index == index}
        limit = live.plan.config.restart.boot_timeout

        def replaced() -> bool:
            fresh = [view for pid, view in live.workers.items() if view.index == index and pid not in before]
            return any(view.ready for view in fresh) or not live.zygote_alive

        live.send(channel.Recycle(index, "asked to"))
        try:
            await asyncio.wait_for(live.changes.until(replaced), limit)
        except TimeoutError:
            raise InstarError(
                f"cannot replace worker {index + 1}: the new process was not ready within {limit:g} s; "
                "the old one goes on"
            ) from None
        if not live.zygote_alive:
            raise InstarError(f"cannot replace worker {index + 1}: the generation has ended")

    # --- single handlers ----------------------------------------------------------------------------

    def _on_handler(self, kind: str, name: str, work: Coroutine[Any, Any, bool]) -> Report:
        if name in self._touched:
            work.close()
            raise BusyError(f"cannot {kind} {name}: another command for it is still running; wait for it")
        report = Report(f"handler {kind}", self._log)
        self.on_begin(report)
        self._touched.add(name)
        self._tasks.spawn(self._touch(name, work, report), f"{kind} {name}")
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
        owner = self._registry.names.owner.get(name)
        self._finish(report, "failed" if error else "done", owner, None, error, kept=[name] if kept else [])

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
        live = self._registry.live
        numbers = {
            "generation": generation.number if generation else None,
            "from": previous.number if previous else None,
            "serving": live.number if live else None,
        }
        result = report.finish(outcome, numbers, error, list(tail), kept)
        entry = {key: value for key, value in result.items() if key not in ("event", "log_tail")}
        self._registry.journal.record(
            "result", kind=report.kind, **({"began": report.op} if report.op else {}), **entry
        )
        self._log.write(
            f"{report.kind}: {outcome}" + (f": {error}" if error else "") + f" ({result['seconds']:.3f} s)",
            generation=numbers["serving"],
        )
