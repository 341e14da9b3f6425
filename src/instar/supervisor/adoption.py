"""Makes what a supervisor that died has left our own, and goes on where it was killed.

The order matters. First everything is collected and checked (`remains.py`), then decided (`interrupted.py`), then the
listeners are restored: from that moment on new connections go where the decision says. Only then is anything ended.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
from collections.abc import Iterator, Sequence

from instar.handlers.messages import QueueSpec
from instar.listeners.base import Mode
from instar.runtime.scoreboard import Drain
from instar.supervisor.contact import Contact
from instar.supervisor.draining import Draining
from instar.supervisor.generation import Generation
from instar.supervisor.handover import Handover, Options
from instar.supervisor.interrupted import Operation, Rule, Stage
from instar.supervisor.logstore import LogStore
from instar.supervisor.operations import Operations
from instar.supervisor.plan import Parts
from instar.supervisor.record import ListenerRecord
from instar.supervisor.registry import Registry
from instar.supervisor.remains import Remains
from instar.supervisor.report import Report
from instar.supervisor.services import Services
from instar.supervisor.tasks import Tasks
from instar.supervisor.transitions import Event, GenerationState

_DIED = "the supervisor was killed"
#: Seconds that a process without a zygote gets to finish its requests.
_FAREWELL = 5.0


class Adoption:
    """One attempt. Owner of the remains until they are the registry's."""

    def __init__(
        self,
        remains: Remains,
        registry: Registry,
        operations: Operations,
        services: Services,
        log: LogStore,
        tasks: Tasks,
    ) -> None:
        self._remains = remains
        self._registry = registry
        self._operations = operations
        self._services = services
        self._log = log
        self._tasks = tasks

    async def run(self, pid: int) -> bool:
        """Adopt; False when nobody is left who could serve: then all is ended. Raises InstarError.

        When it raises, nothing has been ended, and what serves goes on.
        """
        decision = self._remains.decision
        for text in self._remains.refused:
            self._log.write(f"{text}; it is ended")
        if decision.live is None:
            await self._clear()
            return False
        try:
            self._restore(self._remains.contacts[decision.live])
        except BaseException:
            self._remains.close()
            raise
        self._registry.journal.write("start", pid=pid, adopts=decision.live)
        generations = self._take_over()
        live = generations[decision.live]
        self._lead(live)
        # Somebody is going to move the names: of a way back, only those of the generation that served.
        again = any(
            rule is Rule.FORWARD and item.stage is not Stage.DRAIN and (not item.swap or item.old in generations)
            for item, rule in decision.operations
        )
        ordered = [generations[number] for number in sorted(generations)]
        self._registry.names.adopt(ordered, live, arm=not again)
        self._registry.launcher.follow(live.plan)
        await self._services.adopt(live.plan)
        for operation, rule in decision.operations:
            self._resume(operation, rule, generations)
        self._retire_others(generations)
        self._tasks.spawn(self._end_orphans(), "end orphans")
        text = f"generation {live.number} of a supervisor that died is adopted: {len(live.workers)} workers"
        self._log.write(text + (f" ({decision.why})" if decision.why else ""), generation=live.number)
        return True

    # --- listeners ----------------------------------------------------------------------------------

    def _restore(self, live: Contact) -> None:
        frontend, sockets = self._registry.frontend, dict(self._sockets())
        for contact in reversed(self._web()):
            slot, plan = contact.record.slot, contact.record.plan
            frontend.planned[slot], frontend.one_socket[slot] = plan.workers, plan.one_socket
        frontend.live = live.record.slot
        opened: list[str] = []
        try:
            for bind in dict.fromkeys(bind for contact in [live, *self._web()] for bind in _binds(contact)):
                record = self._listener(bind)
                if bind not in _binds(live):
                    if not self._worth_keeping(bind):
                        continue
                    frontend.dropped.add(bind)
                frontend.restore(record, sockets, live.record.plan)
                opened.append(bind)
        except BaseException:
            frontend.forget(opened)
            raise
        for contact in self._web():
            # Those that aren't in use die with the remains.
            contact.sockets = {key: sock for key, sock in contact.sockets.items() if not frontend.owns(sock)}
        for contact in reversed(self._web()):
            self._registry.queues.adopt(QueueSpec(*queue) for queue in contact.queues)
            contact.queues.clear()

    def _web(self) -> list[Contact]:
        """The generations with sockets, the newest first."""
        contacts = sorted(self._remains.contacts.items(), reverse=True)
        return [contact for _, contact in contacts if contact.record.parts.web]

    def _sockets(self) -> Iterator[tuple[int, socket.socket]]:
        for contact in self._web():
            yield from contact.sockets.items()

    def _worth_keeping(self, bind: str) -> bool:
        """Whether an address that the live generation doesn't serve may be needed again: by a rollback."""
        going_on = [item for item, rule in self._remains.decision.operations if rule is Rule.FORWARD]
        contacts = [self._remains.contacts.get(item.old or 0) for item in going_on]
        return any(contact and bind in _binds(contact) for contact in contacts)

    def _listener(self, bind: str) -> ListenerRecord:
        """What is known of a listener. A generation's own UNIX socket is in its own record."""
        found = [(contact, item) for contact in self._web() for item in contact.record.listeners if item.bind == bind]
        _, newest = found[0]
        if newest.mode != Mode.RENAMED:
            return newest
        own: dict[str, Sequence[int]] = {
            contact.record.slot: item.cookies[contact.record.slot] for contact, item in reversed(found)
        }
        return ListenerRecord(bind, newest.mode, own)

    # --- generations --------------------------------------------------------------------------------

    def _take_over(self) -> dict[int, Generation]:
        contacts, self._remains.contacts = self._remains.contacts, {}
        generations = {}
        for number, contact in sorted(contacts.items()):
            generations[number] = self._registry.adopt(contact, self._state(number, contact))
            for sock in contact.sockets.values():
                sock.close()
        return generations

    def _state(self, number: int, contact: Contact) -> GenerationState:
        decision = self._remains.decision
        if number == decision.live:
            return GenerationState.SERVING
        for operation, rule in decision.operations:
            if number == operation.new and rule is Rule.BACK:
                served = operation.stage is Stage.ROLLBACK
                return GenerationState.SERVING if served else GenerationState.BOOTING
        if number in self._remains.story.kept:
            return GenerationState.KEPT
        if not contact.record.parts.web:
            return GenerationState.SERVING
        return GenerationState.DRAINING

    def _lead(self, live: Generation) -> None:
        registry, story = self._registry, self._remains.story
        for number in story.lineage:
            if number in registry.generations:
                registry.lineage.append(registry.generations[number])
            elif number in self._remains.records:
                registry.lineage.append(registry.remember(self._remains.records[number]))
        registry.lead(live)
        registry.frontend.workers[live.slot] = tuple(live.ready_indexes())
        self._operations.config = live.plan.config
        live.drain(Drain.LIVE)
        live.commit()
        # It was paused because another one served: not by somebody's command, which stands.
        superseded = any(
            item.old == live.number if rule is Rule.BACK else item.swap and item.new == live.number
            for item, rule in self._remains.decision.operations
        )
        if superseded and live.paused:
            live.paused = False
            live.resume_accepting(gated=True)
        registry.frontend.apply()
        registry.on_serving(live)

    # --- operations ---------------------------------------------------------------------------------

    def _resume(self, operation: Operation, rule: Rule, generations: dict[int, Generation]) -> None:
        new, old = generations.get(operation.new or 0), generations.get(operation.old or 0)
        parts = Parts(operation.web, operation.handlers, frozenset(operation.pools))
        report = Report(operation.kind, self._log, parts.listed())
        report.op = operation.seq
        if rule is Rule.FORWARD and new is not None:
            self._forward(operation, report, Options(keep_old=operation.keep_old, parts=parts), new, old)
            return
        error = f"{_DIED} in the stage {operation.stage}" + (f": {operation.error}" if operation.error else "")
        if new is None:
            if operation.new is not None:
                error += f", and generation {operation.new} has died as well"
            if operation.stage in (Stage.SWITCH, Stage.DRAIN, Stage.COMMIT) and operation.old is not None:
                self._registry.journal.record("rollback", generation=operation.old, previous=operation.new, error=error)
            self._operations.conclude(report, "rolled-back", error, self._registry.live)
            return
        handover = self._handover(report, Options(parts=parts), new, old)
        work = handover.go_back(error, switched=operation.stage is Stage.ROLLBACK)
        self._operations.resume(handover, work)

    def _forward(
        self, operation: Operation, report: Report, options: Options, new: Generation, old: Generation | None
    ) -> None:
        registry, draining = self._registry, None
        if old and options.parts.web and old.state is not GenerationState.KEPT:
            draining = Draining(old, registry.frontend)
            draining.begin()
            if registry.frontend.gated and not old.paused:
                old.pause_accepting(gated=True)
            registry.drains(draining)
        if operation.swap:
            if draining:
                self._operations.resume_swap(draining, new, draining.generation, report)
            else:
                self._operations.conclude(report, "done", "", new)
            return
        handover = self._handover(report, options, new, old)
        handover.draining = draining
        dropped = list(registry.frontend.dropped)
        if dropped:
            self._tasks.spawn(self._operations.settle_binds([], dropped, report), "settle binds")
        if operation.stage is Stage.DRAIN:
            self._operations.resume_drain(handover)
            return
        passed = registry.system.time() - operation.switched
        grace = max(0.0, new.plan.config.restart.grace - max(0.0, passed))
        self._operations.resume(handover, handover.go_on(grace=grace, after=operation.after))

    def _handover(self, report: Report, options: Options, new: Generation, old: Generation | None) -> Handover:
        handover = Handover(self._registry, new.plan, options, report)
        handover.new, handover.old = new, old
        return handover

    # --- everybody else -----------------------------------------------------------------------------

    def _retire_others(self, generations: dict[int, Generation]) -> None:
        registry, story = self._registry, self._remains.story
        named = {self._remains.decision.live, *(item.new for item in story.operations)}
        named |= {item.old for item, rule in self._remains.decision.operations if rule is Rule.FORWARD and item.web}
        for number, generation in generations.items():
            if generation.state is GenerationState.KEPT:
                registry.keep_on(generation, max(0.0, story.kept[number] - registry.system.time()))
            elif number in named:
                continue
            elif not generation.parts.web and generation.committed:
                registry.serves_names(generation)
                registry.end_when_nameless(generation)
            else:
                self._tasks.spawn(registry.retire(generation, Event.STOPPED), f"retire generation {number}")

    async def _clear(self) -> None:
        """Nobody can serve: end what is left, so that its addresses and names are free."""
        remains, registry = self._remains, self._registry
        registry.journal.record("clear", why=remains.decision.why)
        if remains.contacts or remains.deaf or remains.orphans:
            self._log.write("a supervisor that died has left processes that can't serve on: they are ended first")
        else:
            self._log.write("the supervisor before this one died, and nothing of it lives: a clean start")
        generations = []
        for contact in remains.contacts.values():
            for sock in contact.sockets.values():
                sock.close()
            for _, *ends in contact.queues:
                for fd in ends:
                    os.close(fd)
            generations.append(registry.adopt(contact, GenerationState.DRAINING))
        remains.contacts = {}
        limit = max((item.plan.config.restart.drain_timeout for item in generations), default=0.0)
        work = [registry.end(item, Event.STOPPED, limit) for item in generations]
        await asyncio.gather(*work, self._end_orphans(), self._services.end_leftovers())
        for operation in remains.story.operations:
            report = Report(operation.kind, self._log)
            report.op = operation.seq
            self._operations.conclude(report, "failed", f"{_DIED}, and nobody was left who served", None)

    async def _end_orphans(self) -> None:
        """End processes whose zygotes are dead, and zygotes that hear nobody."""
        remains = self._remains
        remains.kill()
        await asyncio.gather(*(_end(pidfd) for pidfd in remains.orphans), *(_gone(pidfd) for pidfd in remains.deaf))
        remains.close()


async def _end(pidfd: int) -> None:
    """As a zygote ends its worker: hold the connections for the linger, leave; at last SIGKILL."""
    for sig in (signal.SIGUSR1, signal.SIGTERM):
        _signal(pidfd, sig)
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(_gone(pidfd), _FAREWELL)
        return
    _signal(pidfd, signal.SIGKILL)
    await _gone(pidfd)


async def _gone(pidfd: int) -> None:
    loop, gone = asyncio.get_running_loop(), asyncio.Event()
    loop.add_reader(pidfd, gone.set)
    try:
        await gone.wait()
    finally:
        loop.remove_reader(pidfd)


def _signal(pidfd: int, sig: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        signal.pidfd_send_signal(pidfd, sig)


def _binds(contact: Contact) -> tuple[str, ...]:
    return tuple(item.bind for item in contact.record.listeners)
