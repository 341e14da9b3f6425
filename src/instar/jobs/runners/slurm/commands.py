"""sbatch, squeue, scancel and sacct. What they answer is either known for certain, or `UnavailableError`."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Mapping, Sequence
from typing import Final

from instar.jobs.runners.base import RefusedError, UnavailableError

#: A command that takes longer has met a controller that is in trouble (seconds).
_PATIENCE: Final = 60.0
#: The controller, or the way to it, is in trouble; whether it has acted on the request is not known.
_TROUBLE: Final = re.compile(
    r"unable to contact|unable to connect|connect failure|connection (refused|reset|timed out)|communication|"
    r"timed out|zero bytes|temporarily|try again|munge|authentication|slurm_persist|backup controller|in standby|"
    r"unexpected message|address to controller|resolve|no route|broken pipe|not responding",
    re.IGNORECASE,
)
#: Set in a job by the Slurm that runs us; it would speak for the new one.
_FOREIGN: Final = re.compile(r"SLURM_(?!CONF$)|SBATCH_|SLURMD_|SQUEUE_|SCANCEL_|SACCT_")


class Commands:
    """The commands of one cluster, for the user that this process runs as."""

    def __init__(self, prefix: str = "", conf: str = "") -> None:
        """`prefix`: folder of the commands; empty: PATH. `conf`: SLURM_CONF."""
        self._prefix = prefix
        self._conf = conf
        self._user = str(os.geteuid())

    def submit(self, options: Sequence[str], script: str, env: Mapping[str, str], cwd: str) -> str:
        """The new job's number. RefusedError: no job is there (to be on the safe side: none that may begin)."""
        done = self._run("sbatch", "--parsable", *options, script, env=env, cwd=cwd)
        number = done.stdout.strip().partition(";")[0]
        if done.returncode == 0 and number.isdigit():
            return number
        error = _error(done)
        if done.returncode == 0 or _TROUBLE.search(error):
            raise UnavailableError(f"cannot tell whether Slurm has taken a job: {error}")
        raise RefusedError(f"cannot submit to Slurm: {error}")

    def states(self) -> dict[str, list[tuple[str, str, str]]]:
        """(number, state, reason) of this user's jobs by name, ended ones too as long as the controller remembers."""
        done = self._run("squeue", "--noheader", "--states=all", f"--user={self._user}", "--format=%i|%T|%r|%j")
        if done.returncode != 0:
            raise UnavailableError(f"cannot ask Slurm for its jobs: {_error(done)}")
        found: dict[str, list[tuple[str, str, str]]] = {}
        for line in done.stdout.splitlines():
            number, state, reason, name = line.split("|", 3)
            found.setdefault(name, []).append((number, state, reason))
        return found

    def cancel(self, name: str, *options: str) -> None:
        """End all jobs of a name; nothing happens if there is none."""
        done = self._run("scancel", "--quiet", *options, f"--user={self._user}", f"--name={name}")
        error = _error(done)
        # A job may end between its being listed and its being cancelled.
        if done.returncode != 0 and not re.search(r"already compl|invalid job id", error, re.IGNORECASE):
            raise UnavailableError(f"cannot cancel in Slurm: {error}")

    def ended(self, number: str) -> tuple[str, int, int] | None:
        """(state, exit code, signal) of an ended job: from the controller's memory, or from accounting; None: unknown.

        A cluster without accounting is usual: that it can't say anything is no trouble.
        """
        shown = self._run("scontrol", "--oneliner", "show", "job", number)
        state = re.search(r"\bJobState=(\w+)", shown.stdout)
        code = re.search(r"\bExitCode=(\d+):(\d+)", shown.stdout)
        if shown.returncode == 0 and state and code:
            return state[1], int(code[1]), int(code[2])
        if _TROUBLE.search(shown.stderr):
            raise UnavailableError(f"cannot ask Slurm for job {number}: {_error(shown)}")
        listed = self._run(
            "sacct", "--noheader", "--parsable2", "--allocations", "--format=State,ExitCode", "-j", number
        )
        match = re.match(r"(\w+)[^|\n]*\|(\d+):(\d+)", listed.stdout)
        return (match[1], int(match[2]), int(match[3])) if listed.returncode == 0 and match else None

    def _run(
        self, program: str, *arguments: str, env: Mapping[str, str] | None = None, cwd: str = "/"
    ) -> subprocess.CompletedProcess[str]:
        argv = [os.path.join(self._prefix, program), *arguments]  # noqa: PTH118 - a name without folder stays one
        environment = {name: text for name, text in (env or os.environ).items() if not _FOREIGN.match(name)}
        if self._conf:
            environment["SLURM_CONF"] = self._conf
        try:
            return subprocess.run(
                argv,
                env=environment,
                cwd=cwd,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=_PATIENCE,
            )
        except subprocess.TimeoutExpired:
            raise UnavailableError(f"cannot reach Slurm: {program} did not end within {_PATIENCE:g} s") from None
        except OSError as error:
            raise UnavailableError(
                f"cannot run {argv[0]}: {error.strerror}; install Slurm's commands, or set the runner's `commands`"
            ) from error


def _error(done: subprocess.CompletedProcess[str]) -> str:
    """What a command complained of, in one line."""
    lines = [line.strip() for line in (done.stderr or done.stdout).splitlines()]
    lines = [line for line in lines if line and not line.startswith("Try ")]
    return re.sub(r"^\w+: (error: )?", "", lines[-1]) if lines else f"exit status {done.returncode}"
