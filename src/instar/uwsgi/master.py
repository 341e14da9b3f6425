"""Obeys what a master is told: by FIFO, signal, touched file or Emperor. One order never waits for another."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any, Protocol

from instar.control.status import status
from instar.errors import BusyError, InstarError
from instar.supervisor.handover import Options
from instar.supervisor.plan import Parts
from instar.supervisor.supervisor import Supervisor
from instar.supervisor.tasks import Tasks
from instar.uwsgi.letters import WITHOUT_EFFECT, Order, order_of

#: What processes get to end by themselves when a stop is not graceful (seconds).
BRUTAL = 2.0


class Host(Protocol):
    """What an instance can do; those without application do less."""

    def stop(self, *, now: bool) -> None:
        """Begin to end, after the open requests or at once."""

    def reload(self, options: Options) -> None:
        """Begin to take up what is on disk now."""

    def recycle(self) -> None:
        """Begin to replace the workers. Raises InstarError."""

    def toggle_accepting(self) -> None:
        """Stop taking new connections, or begin again. Raises InstarError."""

    def report(self) -> dict[str, Any]:
        """The state, for the log."""

    def reopen_log(self, *, rotate: bool) -> None:
        """Open log files anew."""


class Master:
    """Turns orders into deeds of the host; a refusal goes to the log."""

    def __init__(self, host: Host, log: Callable[[str], object], *, pidfiles: Callable[[], object]) -> None:
        self._host = host
        self._log = log
        self._pidfiles = pidfiles
        #: Tells the Emperor that the instance needs help.
        self.sos: Callable[[], object] = lambda: None
        #: Asked when the FIFO says `q`: whether something better than an end was begun.
        self.instead_of_end: Callable[[], bool] = lambda: False

    def letter(self, letter: str) -> None:
        """A letter of the FIFO; unknown ones are passed over, as by uWSGI."""
        order = order_of(letter)
        if order is Order.STOP and self.instead_of_end():
            return
        if order is not None:
            self.obey(order, f"the master FIFO ({letter})")

    def obey(self, order: Order, source: str) -> None:
        """Do it; `source` says who wants it."""
        if why := WITHOUT_EFFECT.get(order):
            self._log(f"{source}: {order.name.lower().replace('_', ' ')} does nothing: {why}")
            return
        if order is not Order.STATS:
            self._log(f"{source}: {order.name.lower().replace('_', ' ')}")
        try:
            self._do(order)
        except InstarError as error:
            self._log(str(error))

    def _do(self, order: Order) -> None:
        host = self._host
        match order:
            case Order.STOP | Order.STOP_NOW:
                host.stop(now=order is Order.STOP_NOW)
            case Order.RELOAD | Order.RELOAD_NOW:
                host.reload(Options(now=order is Order.RELOAD_NOW))
            case Order.RELOAD_WEB:
                # A chain reload touches no mule.
                host.reload(Options(parts=Parts(handlers=False)))
            case Order.RECYCLE | Order.RECYCLE_NOW:
                host.recycle()
            case Order.PAUSE:
                host.toggle_accepting()
            case Order.STATS:
                self._log(json.dumps(host.report()))
            case Order.LOG_REOPEN | Order.LOG_ROTATE:
                host.reopen_log(rotate=order is Order.LOG_ROTATE)
            case Order.PIDFILES:
                self._pidfiles()
            case Order.SOS:
                self.sos()


class SupervisedHost:
    """An instance with an application: everything is done by its supervisor."""

    def __init__(self, supervisor: Supervisor) -> None:
        self._supervisor = supervisor
        self._tasks = Tasks(supervisor.log.write)
        self._next: Options | None = None

    def stop(self, *, now: bool) -> None:
        """See `Host`."""
        self._supervisor.stop(now, mercy=BRUTAL)

    def reload(self, options: Options) -> None:
        """A handover; while one is under way, the next follows it: whoever asks has newer code."""
        if self._supervisor.stopping:
            raise BusyError("cannot reload: it is stopping")
        waits, self._next = self._next is not None, options
        if not waits:
            self._tasks.spawn(self._reload(), "reload")

    async def _reload(self) -> None:
        operations, log = self._supervisor.operations, self._supervisor.log
        said = False
        while self._next is not None and not self._supervisor.stopping:
            try:
                # Only now are later requests others than this one.
                options, self._next = self._next, None
                operations.restart(options)
            except BusyError:
                self._next = options
                if not said:
                    said = True
                    log.write("the reload waits for the handover that is under way")
                await self._until_free()
            except InstarError as error:
                log.write(str(error))

    async def _until_free(self) -> None:
        handover = self._supervisor.operations.handover
        if handover is not None:
            await handover.report.wait()
        else:
            await asyncio.sleep(0.1)

    def recycle(self) -> None:
        """See `Host`."""
        self._supervisor.operations.recycle_workers()

    def toggle_accepting(self) -> None:
        """See `Host`."""
        live = self._supervisor.registry.live
        self._supervisor.operations.pause_accepting(not (live and live.paused))

    def report(self) -> dict[str, Any]:
        """See `Host`."""
        return status(self._supervisor)

    def reopen_log(self, *, rotate: bool) -> None:
        """See `Host`."""
        self._supervisor.log.reopen(rotate=rotate)

    async def close(self) -> None:
        """End what is still waiting."""
        await self._tasks.cancel()
