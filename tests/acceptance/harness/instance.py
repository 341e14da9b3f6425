"""A running supervisor, as its user sees it: the command line, the control socket, the processes."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import signal
import subprocess
import sys
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from harness.control import Control, Handover
from harness.processes import MARK, Process, alive, kill_all, marked
from harness.project import Project
from harness.waiting import wait_for
from load.target import Target

INSTAR = Path(sys.executable).with_name("instar")


@dataclasses.dataclass(frozen=True)
class Said:
    """What a command of instar answered."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> dict[str, Any]:
        """The answer of a command with `--json`."""
        try:
            found: dict[str, Any] = json.loads(self.out)
        except ValueError as error:
            raise AssertionError(f"no JSON: {self}") from error
        return found


class Instance:
    """One `instar run`. `clean_up` ends every process of it, whatever happened."""

    def __init__(self, project: Project) -> None:
        self.project = project
        self.state_dir = project.root / "state"
        self.control = Control(self.state_dir)
        self._mark = uuid.uuid4().hex
        self._output = project.root / "instar.out"
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def environment(self) -> dict[str, str]:
        """The environment of the supervisor and of the commands."""
        inherited = {key: value for key, value in os.environ.items() if not key.startswith(("PYTEST", "COV"))}
        return {**inherited, "INSTAR_STATE_DIR": str(self.state_dir), MARK: self._mark, "NO_COLOR": "1"}

    @property
    def pid(self) -> int:
        """The supervisor's pid."""
        assert self._process is not None
        return self._process.pid

    # --- life ---

    def start(
        self, limit: float = 90.0, program: Sequence[str] = (str(INSTAR),), pass_fds: Sequence[int] = ()
    ) -> Instance:
        """Start, and wait until it serves. `program`: what runs instar; `pass_fds`: descriptors for it."""
        self.project.write()
        argv = [*program, "run", "-c", str(self.project.config_file)]
        with self._output.open("ab") as output:
            self._process = subprocess.Popen(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=self.environment,
                cwd=self.project.root,
                pass_fds=pass_fds,
            )
        wait_for("the supervisor serves", self._serves, limit)
        return self

    def _serves(self) -> bool:
        assert self._process is not None
        if (code := self._process.poll()) is not None:
            raise AssertionError(f"instar run ended with {code}:\n{self._output.read_text()[-6000:]}")
        with contextlib.suppress(OSError, AssertionError):
            # It may go on with a restart in which another supervisor was killed.
            return bool(self.status()["state"] in ("serving", "handover"))
        return False

    def clean_up(self) -> list[Process]:
        """Stop gracefully, then by force; returns the processes that a graceful stop left behind."""
        process = self._process
        if process is not None and process.poll() is None:
            process.send_signal(signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(3)
        if process is not None and process.poll() is None:
            process.send_signal(signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(8)
        left = kill_all(self._mark)
        if process is not None:
            process.wait(5)
        return left

    def wait(self, limit: float = 40.0) -> int:
        """Wait for the end of the supervisor; its exit status."""
        assert self._process is not None
        return self._process.wait(limit)

    def kill_supervisor(self) -> None:
        """SIGKILL for the supervisor alone."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def end_orphans(self) -> None:
        """End by pid what a killed supervisor has left behind."""
        kill_all(self._mark)

    # --- the command line ---

    def spawn(self, *arguments: str) -> subprocess.Popen[str]:
        """Start a command."""
        argv = [str(INSTAR), *arguments, "-c", str(self.project.config_file)]
        # Without the mark: a command is not one of the instance's processes.
        environment = {key: value for key, value in self.environment.items() if key != MARK}
        return subprocess.Popen(
            argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment, cwd=self.project.root
        )

    def command(self, *arguments: str, limit: float = 120.0) -> Said:
        """Run a command to its end."""
        process = self.spawn(*arguments)
        try:
            out, err = process.communicate(timeout=limit)
        except subprocess.TimeoutExpired:
            process.kill()
            out, err = process.communicate()
            raise AssertionError(f"{arguments} does not end: {out} {err}") from None
        return Said(process.returncode, out, err)

    def handover(self, body: dict[str, Any] | None = None, path: str = "/v1/restart") -> Handover:
        """Start a restart (or rollback) over the control socket and follow it."""
        return Handover(self.control, body, path)

    # --- what is going on ---

    def status(self) -> dict[str, Any]:
        """The state, as the control socket tells it."""
        return self.control.get("/v1/status")

    def live(self) -> dict[str, Any]:
        """The generation that serves."""
        status = self.status()
        number = status["web"]["live_generation"]
        found: dict[str, Any] = next(item for item in status["generations"] if item["number"] == number)
        return found

    def generation(self, number: int) -> dict[str, Any]:
        """A generation by its number."""
        found: dict[str, Any] = next(item for item in self.status()["generations"] if item["number"] == number)
        return found

    def workers(self, number: int | None = None) -> list[int]:
        """The pids of a generation's workers (of the one that serves)."""
        generation = self.live() if number is None else self.generation(number)
        return [worker["pid"] for worker in generation["workers"] if worker["pid"]]

    def processes(self) -> list[Process]:
        """Every living process of this instance."""
        return marked(self._mark)

    def settled(self, generation: int, limit: float = 30.0) -> None:
        """Wait for the only right state: one generation, all workers ready, no process that status does not name."""
        problem = ""

        def settled() -> bool:
            nonlocal problem
            problem = self._unsettled(generation)
            return not problem

        try:
            wait_for(f"generation {generation} alone and complete", settled, limit)
        except AssertionError as error:
            raise AssertionError(f"{error}; {problem}") from None

    def _unsettled(self, number: int) -> str:
        status = self.status()
        living = [item for item in status["generations"] if item["state"] not in ("stopped", "failed")]
        if status["state"] != "serving" or [item["number"] for item in living] != [number]:
            return f"state {status['state']}, generations {[(item['number'], item['state']) for item in living]}"
        workers = living[0]["workers"]
        wanted = self.project.config["web"]["workers"]
        ready = [worker for worker in workers if worker["state"] == "ready" and alive(worker["pid"])]
        if len(ready) != wanted:
            return f"workers {workers}"
        named = {self.pid, living[0]["pid"], *(worker["pid"] for worker in workers)}
        strays = [process for process in self.processes() if process.pid not in named]
        return f"strays {strays}" if strays else ""

    def load_target(self) -> Target:
        """Where clients go."""
        return self.project.target

    def evidence(self) -> str:
        """What the processes said, for the report of a failure."""
        parts = [f"--- instar run ---\n{_tail(self._output)}"]
        for path in sorted(self.state_dir.rglob("*.out")) if self.state_dir.exists() else []:
            parts.append(f"--- {path.relative_to(self.state_dir)} ---\n{_tail(path)}")
        return "\n".join(parts)


def _tail(path: Path, size: int = 5000) -> str:
    try:
        return path.read_bytes()[-size:].replace(b"\0", b"").decode(errors="replace")
    except OSError as error:
        return str(error)
