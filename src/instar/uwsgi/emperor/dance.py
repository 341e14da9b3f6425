"""The recipe's dance, for a zergling of the real uWSGI: it can't be reloaded in place, for it would lose its sockets.

A restarter without mules takes over the web while the main instance leaves and comes back. Each side is asked by a
socket of its own before the other one goes; mules of two main instances never live at the same time.

uWSGI gets the pool's sockets when it starts and accepts as soon as it can, so a restarter that boots but answers with
errors would meet clients before anybody has asked it. Therefore it is rehearsed without these sockets first.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from instar.errors import InstarError, RolledBackError
from instar.supervisor.report import Report
from instar.uwsgi.emperor import galaxy
from instar.uwsgi.emperor.backstage import Backstage
from instar.uwsgi.emperor.link import Order
from instar.uwsgi.emperor.probing import until_answers
from instar.uwsgi.emperor.process import VassalProcess
from instar.uwsgi.emperor.restarter import derive
from instar.uwsgi.emperor.vassal_file import Kind, VassalFile

if TYPE_CHECKING:
    from instar.uwsgi.emperor.vassal import Vassal

#: An instance answers within this time from its start (seconds); `# instar: boot_timeout=SECONDS` changes it.
BOOT_WITHIN = 120.0
#: An instance that was told to leave gracefully has this time (seconds); `# instar: mercy=SECONDS`, `reload-mercy`.
LEAVE_WITHIN = 60.0


def dances(file: VassalFile) -> bool:
    """Whether a vassal is restarted by a dance."""
    return file.kind is Kind.UWSGI and bool(file.zerg) and file.options is not None


def arguments(file: VassalFile, backstage: Backstage) -> tuple[str, ...]:
    """What the main instance gets on its command line. Raises InstarError."""
    if file.options is None:
        return ()
    backstage.prepare(file.options)
    need_app = () if file.options.has("need-app") else ("--need-app",)
    return ("--http-socket", str(backstage.main), *need_app)


def mercy(file: VassalFile) -> float:
    """Seconds that an instance has to finish its requests."""
    return _seconds(file, "mercy", LEAVE_WITHIN, "reload-mercy")


class Dance:
    """One dance of one vassal."""

    def __init__(self, vassal: Vassal, backstage: Backstage, report: Report) -> None:
        self._vassal = vassal
        self._file: VassalFile = vassal.file
        self._backstage = backstage
        self._report = report
        self._target = self._file.remarks.get("probe") or "/"
        self._boot_within = _seconds(self._file, "boot_timeout", BOOT_WITHIN)

    async def run(self) -> dict[str, Any]:
        """Raises RolledBackError when the restarter doesn't come up, InstarError when the main instance doesn't."""
        if self._file.remarks.get("rehearse", "yes") in ("no", "false", "0"):
            self._report.skip("rehearsal", "rehearse=no")
        else:
            with self._report.stage("rehearsal"):
                await self._start_restarter(attached=False)
                await self._vassal.end_standin(now=True)
        with self._report.stage("restarter") as stage:
            restarter = await self._start_restarter(attached=True)
            stage.detail = f"pid {restarter.pid} answers"
        with self._report.stage("leave") as stage:
            stage.detail = await self._leave()
        with self._report.stage("main") as stage:
            await self._until_main(restarter)
            stage.detail = f"pid {self._vassal.process.pid} answers" if self._vassal.process else ""
        with self._report.stage("end"):
            await self._vassal.end_standin()
        return {}

    async def _start_restarter(self, *, attached: bool) -> VassalProcess:
        vassal, backstage = self._vassal, self._backstage
        restarter = vassal.start_standin(self._argv(attached))
        why = await until_answers(
            backstage.restarter, self._target, limit=self._boot_within, alive=lambda: restarter.alive and vassal.wanted
        )
        if not why:
            return restarter
        if restarter.status is not None:
            why = restarter.end_in_words
        await vassal.end_standin(now=not attached)
        raise RolledBackError(f"cannot restart {vassal.name}: the restarter {why}; the main instance serves on")

    def _argv(self, attached: bool) -> Sequence[str]:
        """The command line of the main instance, with the derived file in the place of its own."""
        options, name = self._file.options, self._file.found.name
        if options is None:
            raise InstarError(f"cannot restart {name}: its file can't be read: {self._file.problem}")
        self._backstage.prepare(options)
        directory = self._file.found.path.parent
        extra = galaxy.rewrite(options, directory, self._backstage)
        text = derive(options, self._backstage.restarter, extra, attached=attached)
        path = self._backstage.write("restarter.ini", text)
        argv = list(self._file.argv)
        place = argv.index(name, 1)
        argv[place - 1 : place + 1] = ["--ini", str(path)]
        return argv

    async def _leave(self) -> str:
        """The main instance finishes its requests and ends."""
        process = self._vassal.process
        if process is None or not process.alive:
            return "it was gone"
        await self._vassal.end(process, Order.STOP_GRACEFULLY, mercy(self._file))
        return process.end_in_words

    async def _until_main(self, restarter: VassalProcess) -> None:
        """The vassal is started again like any that has ended; the restarter stays until it answers."""
        vassal, failures = self._vassal, self._vassal.throttle.attempts
        why = await until_answers(
            self._backstage.main,
            self._target,
            limit=self._boot_within,
            alive=lambda: vassal.throttle.attempts == failures and vassal.wanted,
        )
        if not vassal.wanted:
            raise InstarError(f"cannot finish the restart of {vassal.name}: it was told to stop meanwhile")
        if why:
            vassal.watch_standin(self._backstage, self._target)
            rest = "the restarter serves on, without mules" if restarter.alive else "the restarter has ended too"
            raise InstarError(f"cannot finish the restart of {vassal.name}: the main instance {why}; {rest}")


async def until_main_answers(vassal: Vassal, backstage: Backstage, target: str) -> None:
    """However long it takes: a restarter that stands in ends when the main instance is there again."""
    while vassal.standin is not None:
        if not await until_answers(backstage.main, target, limit=BOOT_WITHIN, alive=lambda: vassal.standin is not None):
            await vassal.end_standin()
        else:
            await asyncio.sleep(1.0)


def _seconds(file: VassalFile, remark: str, default: float, option: str = "") -> float:
    found = file.options.last(option) if option and file.options is not None else None
    for text in (file.remarks.get(remark), found.value if found else None):
        with contextlib.suppress(TypeError, ValueError):
            return float(text or "")
    return default
