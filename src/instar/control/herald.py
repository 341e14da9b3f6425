"""Tells the service manager how the supervisor is doing (sd_notify(3)).

READY when the first generation serves and after each restart, RELOADING while one goes on, STATUS at every stage,
EXTEND_TIMEOUT_USEC as long as something takes its time, WATCHDOG from the event loop, STOPPING, and MAINPID.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Callable, MutableMapping
from typing import TYPE_CHECKING, Any, Final

from instar.supervisor.report import Report
from instar.supervisor.tasks import Tasks
from instar.system.notify import Notifier, watchdog_limit

if TYPE_CHECKING:
    from instar.supervisor.supervisor import Supervisor

#: A service manager is asked for so much more time (seconds), this often. What is waited for has limits of its own
#: (boot_timeout, drain_timeout, stop_timeout …), so a start that hangs is not extended for ever.
EXTENSION: Final = 30.0
EXTEND_EVERY: Final = 10.0
#: Operations in which another generation takes over because somebody asked for it.
_RELOADS: Final = ("restart", "rollback")
#: Seconds between two STATUS lines of one stage, and their length.
_PROGRESS_EVERY: Final = 1.0
_LONGEST: Final = 300


class Herald:
    """Owner of the notifications of one supervisor. Without a service manager it says nothing."""

    def __init__(self, notifier: Notifier | None, watchdog: float = 0.0) -> None:
        """`watchdog`: seconds within which the service manager wants to hear from us; 0: it doesn't."""
        self.notifier = notifier
        self._watchdog = watchdog
        self._tasks = Tasks(lambda _: None)
        #: Operations that have begun and not ended, and the stop: what more time is asked for.
        self._under_way = 0
        self._stopping = False
        #: READY was said, and no RELOADING since.
        self._ready = False
        self._status = ""
        self._said = 0.0
        #: Called when a generation begins to serve and when an operation has ended.
        self.on_settled: Callable[[], object] = lambda: None

    @classmethod
    def from_environment(cls, environ: MutableMapping[str, str] | None = None) -> Herald:
        """For the service manager of the environment. Its variables are removed: no child speaks for us."""
        environ = os.environ if environ is None else environ
        limit = watchdog_limit(environ)
        return cls(Notifier.from_environment(environ), limit)

    def environment(self) -> dict[str, str]:
        """The variables as they were, for an exec of this process."""
        found = {"NOTIFY_SOCKET": self.notifier.address} if self.notifier else {}
        if self._watchdog:
            found |= {"WATCHDOG_USEC": str(round(self._watchdog * 1e6)), "WATCHDOG_PID": str(os.getpid())}
        return found

    @contextlib.asynccontextmanager
    async def following(self, supervisor: Supervisor | None) -> AsyncIterator[None]:
        """Speak for a supervisor from before its `serve` until after it; without one, only keep the watchdog quiet."""
        if self.notifier is None:
            yield
            return
        if supervisor:
            self._tasks = Tasks(supervisor.log.write)
            supervisor.operations.on_begin = self._follow
        self._tasks.spawn(self._extend(), "extend time-outs")
        if self._watchdog:
            self._tasks.spawn(self._ping(), "watchdog")
        try:
            yield
        finally:
            await self._tasks.cancel()

    def serving(self, generation: int) -> None:
        """The start is over."""
        self.ready(f"generation {generation} serves")
        self.on_settled()

    def ready(self, text: str) -> None:
        """The start is over, or a reload; also says how things are."""
        if self.notifier is None or self._stopping:
            return
        if not self._ready:
            self._ready, self._status = True, text
            # After an exec, or when another process had to take over, the service manager may know another pid.
            self.notifier.send({"READY": "1", "MAINPID": str(os.getpid()), "STATUS": _line(text)})
        else:
            self._say(text)

    def stopping(self) -> None:
        """The end begins."""
        self._stopping, self._ready = True, False
        if self.notifier:
            self.notifier.stopping("finishes what is open")
            self._ask_for_time()

    # --- operations ---------------------------------------------------------------------------------

    def _follow(self, report: Report) -> None:
        self._under_way += 1
        self._ask_for_time()
        if report.kind in _RELOADS and self._ready and self.notifier:
            self._ready = False
            self.notifier.reloading()
        self._tasks.spawn(self._relate(report), f"tell of the {report.kind}")

    async def _relate(self, report: Report) -> None:
        try:
            async for event in report.watch():
                if event["event"] == "result":
                    self._ended(report.kind, event)
                elif event["event"] == "stage":
                    self._stage(report, event)
        finally:
            self._under_way -= 1

    def _stage(self, report: Report, event: dict[str, Any]) -> None:
        stage, state, detail = event["stage"], event["state"], event.get("detail", "")
        text = f"{report.kind}: {stage}" + (f": {detail}" if detail else "")
        if state == "progress":
            now = asyncio.get_running_loop().time()
            if now - self._said < _PROGRESS_EVERY:
                return
            self._said = now
        if stage == "drain" and state == "started" and report.kind in _RELOADS:
            # The new generation is accepted; a second reload need not wait for the last client of the old one.
            self.ready(text)
        else:
            self._say(text)

    def _ended(self, kind: str, result: dict[str, Any]) -> None:
        number, outcome = result.get("serving"), result["outcome"]
        text = f"generation {number} serves" if number is not None else "nothing serves"
        if outcome != "done":
            text += f"; {kind}: {outcome}: {result['error']}"
        if kind in _RELOADS:
            self.ready(text)
        elif self._ready:
            self._say(text)
        if number is not None:
            self.on_settled()

    # --- what is sent -------------------------------------------------------------------------------

    def _say(self, text: str) -> None:
        if self.notifier and not self._stopping and text != self._status:
            self._status = text
            self.notifier.send({"STATUS": _line(text)}, wait=False)

    def _ask_for_time(self) -> None:
        if self.notifier:
            self.notifier.send({"EXTEND_TIMEOUT_USEC": str(round(EXTENSION * 1e6))}, wait=False)

    async def _extend(self) -> None:
        while True:
            await asyncio.sleep(EXTEND_EVERY)
            if self._under_way or self._stopping:
                self._ask_for_time()

    async def _ping(self) -> None:
        """From the event loop: if that hangs, the service manager ends us, and the next supervisor goes on."""
        while self.notifier:
            self.notifier.send({"WATCHDOG": "1"}, wait=False)
            # Half of the time, as sd_watchdog_enabled(3) recommends.
            await asyncio.sleep(self._watchdog / 2)


def _line(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= _LONGEST else line[: _LONGEST - 1] + "…"
