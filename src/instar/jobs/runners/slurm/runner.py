"""The Slurm runner. An attempt is a Slurm job whose name is the key of the attempt.

Submitting is not idempotent, and its answer may be lost: so a job is looked for by its name, and whichever of several
begins first takes the ticket in the folder, on a file system that this host and the nodes share.
"""

from __future__ import annotations

import logging
import math
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from instar.errors import ConfigError
from instar.jobs.callee import command
from instar.jobs.folder import Folder, make_home, sweep
from instar.jobs.runners import traces
from instar.jobs.runners.base import (
    Assignment,
    Notice,
    Phase,
    RefusedError,
    Runner,
    RunnerError,
    Setup,
    Sink,
    UnavailableError,
)
from instar.jobs.runners.environment import job_environment
from instar.jobs.runners.slurm.commands import Commands
from instar.jobs.runners.slurm.options import sbatch_options
from instar.jobs.runners.slurm.poller import Poller, ended
from instar.jobs.runners.slurm.script import script

logger = logging.getLogger("instar.jobs")

#: Of the handler's environment, what a job on another host can use.
_COMMON: Final = frozenset({"HOME", "LANG", "LANGUAGE", "LOGNAME", "PATH", "SHELL", "SLURM_CONF", "TZ", "USER"})
_OPTIONS: Final = ("commands", "conf", "folder", "grace", "inherit_env", "poll_max", "poll_min")


class SlurmRunner(Runner):
    """Submits to Slurm.

    Options: `folder` (on the shared file system; default: that of local jobs), `commands` (folder of sbatch and the
    others; default: PATH), `conf` (SLURM_CONF), `poll_min` and `poll_max` (seconds between two squeues), `grace`
    (seconds until a job that is gone without an end is lost), `inherit_env` (jobs get the handler's environment).
    Parameters of destinations are long options of sbatch: `partition = "long"`, `mem = "4G"`.
    """

    runs_callables = True
    threads = 4

    def __init__(self, setup: Setup) -> None:
        super().__init__(setup)
        options = setup.options
        self._told: set[str] = set()
        # Job configurations of other systems have more; that must not keep a handler from starting.
        self._warn("option", sorted(set(options) - set(_OPTIONS)))
        self._home = Path(str(options.get("folder") or setup.folder))
        self._inherit = bool(options.get("inherit_env", False))
        self._commands = Commands(str(options.get("commands", "")), str(options.get("conf", "")))
        self._poller = Poller(
            self._commands,
            shortest=_seconds(setup, "poll_min", 2.0),
            longest=_seconds(setup, "poll_max", 15.0),
            grace=_seconds(setup, "grace", 30.0),
        )
        self._sink: Sink | None = None
        self._since = 0.0

    def open(self, sink: Sink) -> None:
        """Begin to follow; the controller needn't be there yet."""
        try:
            self._since = make_home(self._home)
            sweep(self._home)
        except OSError as error:
            raise RunnerError(
                f"cannot keep jobs of Slurm in {self._home}: {error.strerror}; check its owner"
            ) from error
        self._sink = sink
        self._poller.start(sink)

    def start(self, assignment: Assignment) -> Notice:
        """Submit it."""
        options, unknown = sbatch_options(assignment.params)
        self._warn("parameter", unknown)
        folder = self._folder(assignment)
        path, env = self._write(assignment, folder)
        options += [f"--job-name={assignment.key}", "--no-requeue", "--export=ALL", "--open-mode=append"]
        options += [f"--output={folder.out}", f"--error={folder.err}", f"--chdir={folder.path}"]
        options.append(f"--comment=instar job {assignment.job_id} {assignment.title}".rstrip())
        if assignment.timeout and "time" not in assignment.params:
            # For the case that nobody is there to end it; Slurm counts in minutes.
            options.append(f"--time={math.ceil(assignment.timeout / 60) + 1}")
        try:
            number = self._commands.submit(options, str(path), env, str(folder.path))
        except RefusedError:
            # Slurm may list what it has refused, and may have misspoken: it must not begin.
            if folder.void():
                self._commands_quietly(assignment)
                raise
            return self.recover(assignment)
        self._poller.watch(assignment, folder, Phase.QUEUED)
        return Notice(assignment.key, Phase.QUEUED, number)

    def recover(self, assignment: Assignment) -> Notice:
        """Look into the folder, and for jobs of its name."""
        folder = self._folder(assignment)
        try:
            if end := ended(assignment.key, folder):
                return end
            jobs = self._commands.states().get(assignment.key, [])
            ticket = folder.ticket()
            if not jobs and (ticket is None or ticket.void):
                return traces.settle(assignment, folder, self._since)
        except (OSError, ValueError, TypeError) as error:
            raise UnavailableError(f"cannot look after job {assignment.job_id} in {folder.path}: {error}") from error
        phase = Phase.RUNNING if ticket and not ticket.void else Phase.QUEUED
        number = (ticket.slurm if ticket else "") or (jobs[-1][0] if jobs else "")
        self._poller.watch(assignment, folder, phase)
        return Notice(assignment.key, phase, number, started_at=ticket.at if ticket else None)

    def cancel(self, assignment: Assignment, *, now: bool = False) -> None:
        """scancel: SIGTERM, and SIGKILL after the cluster's KillWait, or at once. What has not begun never will."""
        folder = self._folder(assignment)
        try:
            folder.void()
            ticket = folder.ticket()
        except (OSError, ValueError, TypeError) as error:
            raise UnavailableError(f"cannot cancel job {assignment.job_id} in {folder.path}: {error}") from error
        begun = ticket is not None and not ticket.void
        if begun and now:
            self._commands.cancel(assignment.key, "--signal=KILL", "--full")
        self._commands.cancel(assignment.key)
        self._poller.hurry()
        if not begun and self._sink:
            self._sink(Notice(assignment.key, Phase.NEVER))

    def progress(self, assignment: Assignment) -> Any:
        """The last line of its file `progress`."""
        return self._folder(assignment).progress()

    def discard(self, assignment: Assignment) -> None:
        """Delete its folder."""
        self._folder(assignment).remove()

    def close(self) -> None:
        """Stop following; jobs go on."""
        if self._sink:
            self._poller.close()

    # --- parts --------------------------------------------------------------------------------------

    def _folder(self, assignment: Assignment) -> Folder:
        return Folder(self._home / assignment.key)

    def _write(self, assignment: Assignment, folder: Folder) -> tuple[Path, dict[str, str]]:
        """The batch script, and the environment for it."""
        env = job_environment(assignment, folder, None if self._inherit else _common(os.environ))
        order: dict[str, Any] = {"argv": list(assignment.argv), "env": env}
        cwd = assignment.cwd or str(folder.work)
        if assignment.target:
            cwd = assignment.cwd or str(Path.cwd())
            call = {"target": assignment.target, "args": list(assignment.args), "kwargs": dict(assignment.kwargs)}
            order = {"argv": command("once"), "env": env, "path": sys.path, **call}
        elif not assignment.argv:
            raise RefusedError(f"cannot run job {assignment.job_id}: it has neither a command nor a callable")
        if any("\0" in text for text in (*order["argv"], *env, *env.values(), cwd)):
            raise RefusedError(f"cannot run job {assignment.job_id}: its command or environment has a zero byte in it")
        path = folder.path / "script"
        try:
            folder.order(order)
            folder.work.mkdir(mode=0o700, exist_ok=True)
            path.write_text(script(folder, order["argv"], cwd))
        except OSError as error:
            raise UnavailableError(
                f"cannot prepare job {assignment.job_id} in {folder.path}: {error.strerror}"
            ) from error
        return path, env

    def _commands_quietly(self, assignment: Assignment) -> None:
        try:
            self._commands.cancel(assignment.key)
        except RunnerError as error:
            logger.warning("%s", error)

    def _warn(self, kind: str, unknown: list[str]) -> None:
        for name in unknown:
            if name not in self._told:
                self._told.add(name)
                logger.warning("the runner %s does nothing with the %s %s", self.setup.name, kind, name)


def _common(environment: Mapping[str, str]) -> dict[str, str]:
    return {name: text for name, text in environment.items() if name in _COMMON or name.startswith("LC_")}


def _seconds(setup: Setup, name: str, default: float) -> float:
    value = setup.options.get(name, default)
    if isinstance(value, bool) or not isinstance(value, int | float) or value <= 0:
        raise ConfigError(f"cannot set up the runner {setup.name}: {name} must be a number of seconds, not {value!r}")
    return float(value)
