"""`instar restart VASSAL` and what a touch does: the way to new code depends on who runs the vassal."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from instar.errors import ConfigError, ExitCode, InstarError
from instar.supervisor.report import Report, Stage
from instar.uwsgi.emperor import dance, supervised
from instar.uwsgi.emperor.link import Order
from instar.uwsgi.emperor.process import VassalProcess
from instar.uwsgi.emperor.vassal_file import Kind

if TYPE_CHECKING:
    from instar.uwsgi.emperor.vassal import Vassal

#: A vassal that is started or reloaded says within this time that it is ready (seconds).
READY_WITHIN = 120.0
_OUTCOMES = {ExitCode.BUSY: "busy", ExitCode.ROLLED_BACK: "rolled-back"}


class Renewals:
    """Runs one renewal of each vassal at a time, and tells what came of it."""

    def __init__(self, report: Callable[[], Report], last_words: Callable[[str, float], list[str]]) -> None:
        """`last_words`: what a vassal and its restarter wrote last, since a moment (seconds since the epoch)."""
        self._report = report
        self._last_words = last_words
        self._one = asyncio.Lock()

    def begin(self, vassal: Vassal, body: dict[str, Any]) -> Report:
        """Start it; follow the report."""
        report = self._report()
        vassal.renewing = True
        vassal.tasks.spawn(self._run(vassal, body, report), f"restart {vassal.name}")
        return report

    async def _run(self, vassal: Vassal, body: dict[str, Any], report: Report) -> None:
        result: dict[str, Any] = {}
        began = time.time()
        try:
            result = await self._renew(vassal, body, report)
        except InstarError as error:
            result = {"outcome": _OUTCOMES.get(error.exit_code, "failed"), "error": str(error)}
            result["log_tail"] = self._last_words(vassal.name, began)
        finally:
            vassal.renewed()
            self._log(vassal, result)
            known = {key: result.pop(key, None) for key in ("outcome", "error", "log_tail", "kept")}
            report.finish(
                known["outcome"] or "done",
                {**result, "vassal": vassal.name},
                known["error"],
                known["log_tail"] or [],
                known["kept"] or (),
            )

    def _log(self, vassal: Vassal, result: dict[str, Any]) -> None:
        error = f": {result['error']}" if result.get("error") else ""
        vassal.log(f"restart of vassal {vassal.name}: {result.get('outcome') or 'done'}{error}")

    async def _renew(self, vassal: Vassal, body: dict[str, Any], report: Report) -> dict[str, Any]:
        process = vassal.process
        if process is None or not process.alive:
            return await _start(vassal, report)
        another = process.program != vassal.file.argv[0] and not dance.dances(vassal.file)
        if process.kind is not vassal.file.kind or another:
            return await _exchange(vassal, process, report)
        if vassal.file.kind is not Kind.UWSGI:
            await _boot(vassal, process, report)
            if await supervised.status(vassal.file, process) is not None:
                return await _hand_over(vassal, process, body, report)
        if any(body.values()):
            raise ConfigError(
                f"cannot restart {vassal.name} with {', '.join(key for key in body if body[key])}: "
                "it has no supervisor of instar's; leave the options out"
            )
        if dance.dances(vassal.file):
            # One at a time: each needs the memory of one application more.
            with report.stage("wait"):
                await self._one.acquire()
            try:
                return await dance.Dance(vassal, vassal.backstage, report).run()
            finally:
                self._one.release()
        if vassal.file.kind is Kind.UWSGI and vassal.file.pools:
            raise InstarError(
                f"cannot reload {vassal.name}: a pool of the real uWSGI can't have its addresses back while a zergling "
                "holds them; stop the zerglings first, or let instar run it (# instar: uwsgi=instar)"
            )
        return await _reload(vassal, process, report)


async def _start(vassal: Vassal, report: Report) -> dict[str, Any]:
    """It doesn't run: whatever it waits for after failures is over."""
    with report.stage("start") as stage:
        vassal.throttle.forget()
        vassal.begin()
        await _until_ready(vassal, stage, lambda: vassal.ready)
    return {}


async def _exchange(vassal: Vassal, process: VassalProcess, report: Report) -> dict[str, Any]:
    """Its file names another program: one has to go before the other can begin.

    A zergling's clients wait in the pool's queue meanwhile.
    """
    with report.stage("leave") as stage:
        vassal.throttle.forget()
        await vassal.end(process, Order.STOP_GRACEFULLY, dance.mercy(vassal.file))
        stage.detail = f"{process.program} makes way for {vassal.file.argv[0]}"
    with report.stage("start") as stage:
        await _until_ready(vassal, stage, lambda: vassal.ready)
    return {}


async def _boot(vassal: Vassal, process: VassalProcess, report: Report) -> None:
    """It has only just been started, perhaps with the old file: it can't be restarted before it is there."""
    if not process.ready:
        with report.stage("wait") as stage:
            await _until_ready(vassal, stage, lambda: vassal.ready)


async def _hand_over(vassal: Vassal, process: VassalProcess, body: dict[str, Any], report: Report) -> dict[str, Any]:
    """Its own supervisor's handover, seen through."""
    result: dict[str, Any] = {}
    async for event in supervised.restart(vassal.file, process, body):
        if event.get("event") == "result":
            result = {key: value for key, value in event.items() if key not in ("event", "stages", "parts", "seconds")}
        else:
            report.relay(event)
    if not result:
        raise InstarError(f"cannot tell how the restart of {vassal.name} ended: its supervisor closed the connection")
    return result


async def _reload(vassal: Vassal, process: VassalProcess, report: Report) -> dict[str, Any]:
    """By a byte: a pool of ours reads its file again, the real uWSGI keeps its own sockets and executes itself anew."""
    with report.stage("reload") as stage:
        # The real uWSGI says everything again.
        again = vassal.file.kind is Kind.UWSGI
        if again:
            process.reset()
        if not process.order(Order.RELOAD):
            raise InstarError(f"cannot reload {vassal.name}: it doesn't listen to its Emperor")
        await _until_ready(vassal, stage, lambda: vassal.ready)
    return {}


async def _until_ready(vassal: Vassal, stage: Stage, ready: Callable[[], bool]) -> None:
    first, failures = vassal.process if vassal.running else None, vassal.throttle.attempts
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(READY_WITHIN):
            await vassal.changes.until(lambda: ready() or vassal.throttle.attempts > failures or _over(first, vassal))
    if not ready():
        failed = vassal.throttle.attempts > failures
        why = vassal.failure if failed else f"isn't ready after {READY_WITHIN:g} s"
        raise InstarError(f"cannot see {vassal.name} ready: it {why}")
    stage.detail = f"pid {vassal.process.pid}" if vassal.process else ""


def _over(first: object, vassal: Vassal) -> bool:
    """The process that was to reload has ended; it will be started again."""
    return first is not None and vassal.process is first and not vassal.running
