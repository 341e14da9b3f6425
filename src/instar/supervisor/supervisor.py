"""The supervisor: one process with a constant pid that owns the listeners, the generations and the state.

Everything runs in one event loop. Each part has one owner (`Registry`, `Operations`, `Names`, `Frontend`); all others
ask it.
"""

from __future__ import annotations

import asyncio
import dataclasses
import os
import signal
from collections.abc import Callable, Sequence
from typing import Any

from instar import __version__
from instar.config import Config
from instar.errors import ExitCode, InstarError
from instar.runtime.scoreboard import Drain
from instar.supervisor.adoption import Adoption
from instar.supervisor.draining import Draining
from instar.supervisor.generation import Generation
from instar.supervisor.handover import Options
from instar.supervisor.journal import Journal
from instar.supervisor.leftovers import Orphan
from instar.supervisor.operations import Operations
from instar.supervisor.plan import Plan
from instar.supervisor.record import Processes
from instar.supervisor.registry import Outside, Registry
from instar.supervisor.remains import Remains
from instar.supervisor.services import Services
from instar.supervisor.tasks import Tasks
from instar.supervisor.transitions import Event
from instar.supervisor.upgrade.inheritance import Inheritance, listen_to_signals
from instar.supervisor.upgrade.outcome import inherited, write_lost
from instar.supervisor.upgrade.upgrade import Upgrade
from instar.supervisor.vigil import Vigil

#: A stop waits so long for open requests before it ends the workers gracefully (seconds).
_STOP_DRAIN = 1.0


@dataclasses.dataclass(frozen=True)
class Stop:
    """How to stop; see `Supervisor.stop`."""

    now: bool
    drain: float | None = None
    mercy: float = 0.0


class Supervisor:
    """The whole. `serve` is its life."""

    def __init__(self, config: Config, reload: Callable[[], Config], outside: Outside) -> None:
        self.state = outside.state
        self.log = outside.log
        self.journal = Journal(outside.state.journal, outside.system)
        self.tasks = Tasks(outside.log.write)
        self.services = Services(
            outside.state.output / "services",
            outside.system,
            outside.log.write,
            Processes(outside.state.control / "services.pids"),
        )
        self.registry = Registry(outside, self.journal, self.tasks)
        self.operations = Operations(config, reload, self.registry, self.services, outside.log, self.tasks)
        #: What a supervisor that died here has left; `serve` adopts it.
        self.remains: Remains | None = None
        #: It has been adopted: the generation that serves was somebody else's.
        self.adopted = False
        #: What the version that we were has left to us, if this is an upgrade.
        self.heir: Inheritance | None = None
        #: The way into another version; None where there is none.
        self.upgrade: Upgrade | None = None
        #: Generations of supervisors of this name that died; whoever made us decides when they end.
        self.orphans: list[Orphan] = []
        self.pid = os.getpid()
        self.started = outside.system.time()
        #: Set when new connections first had somewhere to go.
        self.serving = asyncio.Event()
        self._system = outside.system
        self._vigil = Vigil(self.registry, self.operations, outside.log, self.tasks)
        #: What each signal does.
        self.signals: dict[int, Callable[[], object]] = {
            signal.SIGHUP: self.restart_by_signal,
            signal.SIGTERM: self.stop_by_signal,
            signal.SIGINT: self.stop_by_signal,
            signal.SIGQUIT: lambda: self.stop(now=True),
        }
        self.registry.on_asked = self._on_asked
        #: Called when a stop begins, before anything else happens.
        self.on_stop: Callable[[], object] = lambda: None
        #: Seconds of a full drain at a stop for which nobody says otherwise; None: no full drain.
        self.full_drain: float | None = None
        self._stop_asked: asyncio.Future[Stop] = asyncio.get_running_loop().create_future()

    @property
    def config(self) -> Config:
        """The configuration of the generation that serves."""
        return self.operations.config

    @property
    def stopping(self) -> bool:
        """Whether it was told to stop."""
        return self.operations.closed

    async def serve(self, announce: Callable[[Generation], None]) -> int:
        """Boot, serve until told to stop; returns the exit code. Raises InstarError when the start fails."""
        registry = self.registry
        self._handle_signals()
        if self.remains is None or not await self._adopt(self.remains):
            return await self._serve_afresh(announce)
        try:
            assert registry.live is not None  # noqa: S101 - adopted
            self._take_office(registry.live.number)
            self._vigil.restore_names()
            self.tasks.spawn(self._vigil.balance(), "balance")
            announce(registry.live)
            self.serving.set()
            await self._shut_down(await self._stop_asked)
        finally:
            await self._end()
        return ExitCode.DONE

    async def wind_up(self, now: bool) -> int | None:
        """Adopt what a supervisor that died here has left, and stop it; the generation that served, if one did.

        `now`: without waiting for its clients. Raises InstarError when it can't be adopted; then it serves on.
        """
        if self.remains is None:
            return None
        self._handle_signals()
        served = self.remains.decision.live
        if await self._adopt(self.remains):
            try:
                self.stop(now)
                await self._shut_down(await self._stop_asked)
            finally:
                await self._end()
            return served
        await self._end()
        return None

    async def _adopt(self, remains: Remains) -> bool:
        adoption = Adoption(remains, self.registry, self.operations, self.services, self.log, self.tasks)
        self.adopted = await adoption.run(self.pid)
        return self.adopted

    def _take_office(self, live: int | None) -> None:
        """From now on nobody goes back to the version before; its last upgrade has a result."""
        heir, self.heir = self.heir, None
        write_lost(self.journal, self.journal.entries(), besides=heir.op if heir else None)
        if heir is None:
            self.journal.write_format()
            return
        entry = inherited(heir, live, self._system.monotonic())
        heir.confirm()
        self.log.write(f"upgrade: {entry['outcome']}: " + (entry["error"] or f"instar {__version__} runs"))
        # Not earlier: the version before would not read a newer format.
        self.journal.write_format()
        self.journal.record("result", kind="upgrade", began=heir.op, **entry)

    async def _serve_afresh(self, announce: Callable[[Generation], None]) -> int:
        plan, registry = Plan.of(self.config), self.registry
        self.journal.write("start", pid=self.pid)
        self._take_office(None)
        try:
            registry.frontend.open(self.config)
            registry.queues.ensure(self.config.queue_names())
            if self._stop_asked.done():
                return ExitCode.DONE
            report = self.operations.begin("boot", plan, Options())
            self.tasks.spawn(self._vigil.balance(), "balance")
            result = await report.wait()
            if registry.live is None:
                if self.stopping:
                    return ExitCode.DONE
                raise InstarError(_start_error(result))
            announce(registry.live)
            self.serving.set()
            await self._shut_down(await self._stop_asked)
        finally:
            await self._end()
        return ExitCode.DONE

    async def _end(self) -> None:
        registry = self.registry
        await registry.launcher.stop()
        registry.frontend.close(list(registry.frontend.listeners))
        registry.queues.close()
        if not registry.generations:
            registry.records.keep(set())
        self.journal.record("stop", pid=self.pid)
        self.journal.close()

    def stop(self, now: bool, *, drain: float | None = None, mercy: float = 0.0) -> None:
        """Begin to stop: gracefully, or at once. A second call with `now` makes it at once.

        `drain`: first stop accepting, then wait so long (seconds) until every client has gone, as after a cut-over.
        `mercy`: seconds that processes get to end by themselves when it is at once.
        """
        if self.stopping and now:
            for generation in self.registry.generations.values():
                generation.kill()
        if not self.stopping:
            # For `instar cleanup`: nobody is going to adopt what a supervisor leaves that was told to stop.
            self.journal.record("stopping", now=now)
            self.on_stop()
        self.operations.close("the supervisor is stopping")
        if self.registry.draining:
            self.registry.draining.end_now()
        if not self._stop_asked.done():
            self._stop_asked.set_result(Stop(now, self.full_drain if drain is None else drain, mercy))

    # --- signals ------------------------------------------------------------------------------------

    def _handle_signals(self) -> None:
        loop = asyncio.get_running_loop()
        for sig, action in self.signals.items():
            loop.add_signal_handler(sig, action)
        self._system.become_subreaper()
        loop.add_signal_handler(signal.SIGCHLD, self._vigil.reap_strays)
        # What came during an exec, and the guardian's end.
        listen_to_signals()

    def stop_by_signal(self) -> None:
        """Stop; the second time at once."""
        self.stop(now=self.stopping)

    def restart_by_signal(self) -> None:
        """Begin a handover; a refusal goes to the log."""
        try:
            self.operations.restart(Options())
        except InstarError as error:
            self.log.write(str(error))

    def upgrade_by_signal(self) -> None:
        """Begin to become the version that is installed now; a refusal goes to the log."""
        try:
            if self.upgrade is None:
                raise InstarError("cannot upgrade: this supervisor has no way back")
            self.upgrade.begin()
        except InstarError as error:
            self.log.write(str(error))

    def _on_asked(self, generation: Generation, what: str) -> None:
        """A process of the application asks for something. Only extensions give it the means; others are not heard."""
        if generation.plan.config.extension is None:
            return
        if what == "reload":
            self.signals[signal.SIGHUP]()
        elif what == "stop":
            self.stop(now=False)

    # --- the end ------------------------------------------------------------------------------------

    async def _shut_down(self, how: Stop) -> None:
        timeout = how.mercy if how.now else self.config.restart.drain_timeout
        alive = [item for item in self.registry.generations.values() if item.alive]
        if how.drain is not None and not how.now:
            await self._leave(alive, how.drain)
        elif not how.now:
            await self._let_go(alive)
        ends = [self.registry.end(item, Event.STOPPED, timeout) for item in alive]
        await asyncio.gather(*ends, self.services.stop())
        await self.tasks.cancel()

    async def _leave(self, generations: Sequence[Generation], limit: float) -> None:
        """Finish with every client; handlers work on meanwhile, unless another supervisor waits for their names."""
        over, grace = asyncio.Event(), self.config.restart.stream_grace
        ends = [Draining(item, self.registry.frontend) for item in generations]
        for end in ends:
            end.stop_accepting()
            end.begin()
        names = self.tasks.spawn(self.registry.names.let_go(over), "let names go")
        await asyncio.gather(*(end.finish(limit, grace, lambda _: None) for end in ends))
        over.set()
        await names

    async def _let_go(self, generations: Sequence[Generation]) -> None:
        """Give open connections a moment to be closed politely, or until a second request to stop."""
        ends = [Draining(item, self.registry.frontend) for item in generations]
        for end in ends:
            end.begin()
            end.generation.drain(Drain.END_STREAMS)
        await asyncio.gather(*(end.finish(_STOP_DRAIN, 0.0, lambda _: None) for end in ends))


def _start_error(result: dict[str, Any]) -> str:
    lines = "".join(f"\n  {line}" for line in result["log_tail"])
    return f"cannot start: {result['error']}" + (f"\nLast output:{lines}" if lines else "")
