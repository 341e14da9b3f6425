"""The way of a running supervisor into another version of itself.

Everything that can be tried is tried in children first. Then a guardian stands by, and the process executes the new
version: same pid, same children. What it serves with, it gets back by adoption, as after a crash.
"""

from __future__ import annotations

import dataclasses
import os
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn

from instar import __version__
from instar.errors import InstarError
from instar.supervisor.operations import Operations
from instar.supervisor.registry import Registry
from instar.supervisor.report import Report
from instar.supervisor.tasks import Tasks
from instar.supervisor.upgrade import changeover, outcome
from instar.supervisor.upgrade.guardian import Guardian
from instar.supervisor.upgrade.inheritance import Inheritance
from instar.supervisor.upgrade.release import changeover_script, way_back
from instar.supervisor.upgrade.selftest import Findings
from instar.supervisor.upgrade.trial import Trial, TrialError

#: Seconds until the new version has to be ready, if nobody says otherwise; the same for each self-test.
LIMIT = 30.0
#: At least so many times as long as its self-test took: on a busy machine all is slow.
_TIMES = 5
#: Seconds for watchers to take the last event.
_WATCHERS_PATIENCE = 1.0


@dataclasses.dataclass(frozen=True)
class Origin:
    """Where this supervisor comes from, and what it needs to become another."""

    #: The command that started it, as whoever installs a new version changes it.
    command: Sequence[str]
    #: The folder with the private copy of this version.
    home: Path
    arguments: Sequence[str]
    #: For the new version; read at the moment of the exec.
    environment: Callable[[], dict[str, str]]
    #: Descriptors of the lock and of the control socket.
    lock: int
    control: Callable[[], int]


class Upgrade:
    """One upgrade at a time."""

    def __init__(self, origin: Origin, registry: Registry, operations: Operations, tasks: Tasks) -> None:
        self._origin = origin
        self._registry = registry
        self._operations = operations
        self._tasks = tasks
        self._system = registry.system
        self._trial = Trial(registry, origin.environment)

    def begin(self, program: str | None = None, limit: float | None = None) -> Report:
        """Begin; `program`: another instar than the one that was started. Raises InstarError.

        The report ends with the event `exec` when the rest is told by the history.
        """
        command = list(self._origin.command)
        if program is not None:
            if not os.access(program, os.X_OK) or not Path(program).is_file():
                raise InstarError(f"cannot upgrade to {program}: it is no program; name the `instar` of an environment")
            command = [str(Path(program).absolute()), *self._origin.arguments]
        report = self._operations.begin_upgrade(__version__, command[0])
        self._tasks.spawn(self._run(report, command, limit), "upgrade")
        return report

    async def _run(self, report: Report, command: list[str], asked: float | None) -> None:
        error, found, limit = "", None, asked or LIMIT
        tail: list[str] = []
        try:
            await self._wait(report)
            with report.stage("way back"):
                back = [*way_back(self._origin.home), *self._origin.arguments]
                await self._trial.run(back, limit, "there would be no way back: the running version, started again,")
            with report.stage("self-test") as stage:
                found = await self._trial.run(command, limit, "the new version")
                stage.detail = f"{__version__} → {found.version}"
            limit = asked or max(LIMIT, _TIMES * stage.seconds)
            await self._change(report, command, found, limit)
        except TrialError as problem:
            error, tail = str(problem), problem.tail
        except (InstarError, OSError) as problem:
            error = str(problem)
        self._finish(report, error, found, tail)

    def _finish(self, report: Report, error: str, found: Findings | None, tail: list[str]) -> None:
        live = self._registry.live
        entry = outcome.result(
            "rolled-back",
            error,
            from_version=__version__,
            version=found.version if found else "",
            live=live.number if live else None,
            stages=report.stages,
            seconds=self._system.monotonic() - report.began,
        )
        self._operations.end_upgrade(report, entry, tail)

    async def _wait(self, report: Report) -> None:
        """An old generation that still drains is told of in the report of its handover: that ends first."""
        with report.stage("wait") as stage:
            if self._registry.draining:
                stage.progress(f"generation {self._registry.draining.generation.number} is still draining")
            await self._operations.quiet()

    # --- the change ---------------------------------------------------------------------------------

    async def _change(self, report: Report, command: list[str], found: Findings, limit: float) -> None:
        """Become the new version. Returns only when that can't be begun: by raising InstarError or OSError."""
        origin = self._origin
        heir = Inheritance(
            lock=origin.lock,
            control=origin.control(),
            ready=-1,
            state=self._registry.state.root,
            op=report.op or 0,
            began=report.began,
            from_version=__version__,
            version=found.version,
            command=command,
            stages=report.stages,
            limit=limit,
            back=[*way_back(origin.home), *origin.arguments],
            program=found.program,
        )
        script = changeover_script(origin.home)
        guardian = await Guardian.start(script, heir, origin.environment())
        try:
            report.leave(op=report.op, limit=limit)
            await report.heard(_WATCHERS_PATIENCE)
            self._operations.refuse_if_not_quiet("upgrade")
            self._registry.collect()
            # With it goes what a full disk has kept back: the new version has only the file.
            self._registry.journal.write("exec", version=found.version)
            heir.ready = guardian.ready
            name = ["-m", *found.program[1:]] if found.program[0] == "-m" else found.program
            argv = [found.python, *found.flags, str(script), name[-1], *origin.arguments]
            _execute(argv, heir, {**origin.environment(), changeover.VARIABLE: heir.dump()})
        finally:
            await guardian.dismiss()


def _execute(argv: list[str], heir: Inheritance, environment: dict[str, str]) -> NoReturn:
    """execve(2). Raises OSError, with everything as before."""
    sys.stdout.flush()
    sys.stderr.flush()
    fds = [fd for fd in (heir.lock, heir.control, heir.ready) if fd >= 0]
    before = signal.pthread_sigmask(signal.SIG_BLOCK, changeover.SIGNALS)
    try:
        for fd in fds:
            os.set_inheritable(fd, True)
        os.execve(argv[0], argv, environment)  # noqa: S606
    finally:
        # Only after a failure; a signal that came meanwhile meets our handlers.
        for fd in fds:
            os.set_inheritable(fd, False)
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    raise AssertionError("execve returns only by raising")
