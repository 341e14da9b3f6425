"""Slurm's controller is away for half a minute: nothing is known of its jobs meanwhile, and nothing is made up."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest
from job_tools import command, moves
from manager_tools import World, managing, until
from slurm_node import Slurm

from instar.jobs.crew import Crew
from instar.jobs.manager import Manager
from instar.jobs.model import JobState
from instar.jobs.plan import JobPlan
from instar.jobs.runners import load
from instar.jobs.store import JobStore
from instar.testing import fake_handler

OUTAGE = 30.0


def manage(plan: JobPlan, state: Path) -> int:
    """A manager in a process of its own; its pid."""
    pid = os.fork()
    if pid == 0:
        try:
            with fake_handler("main.jobs.1", "jobs", state_dir=state) as fake:
                fake.activate()
                Manager(plan, fake.handler, JobStore(plan.store), crew=Crew(plan, fake.handler.name)).run()
        finally:
            os._exit(1)
    return pid


class Jobs:
    """Each writes its name down when it runs, and ends when it is told to."""

    def __init__(self, store: JobStore, url: str, folder: Path) -> None:
        self._store = store
        self._url = url
        self._folder = folder
        self._ids: dict[str, int] = {}

    def submit(self, name: str, code: int, **more: object) -> None:
        script = f"echo {name} >>runs; while [ ! -e {name}.go ]; do sleep 0.05; done; echo whole; exit {code}"
        self._ids[name] = self._store.submit(command("sh", "-c", script, cwd=str(self._folder), **more))

    def go(self, name: str) -> None:
        (self._folder / f"{name}.go").touch()

    def cancel(self, name: str) -> None:
        self._store.cancel(self._ids[name])

    def state(self, name: str) -> JobState:
        return self._store.get(self._ids[name]).state

    def states(self) -> dict[str, str]:
        return {name: self.state(name) for name in self._ids}

    def running(self, name: str) -> bool:
        return self.state(name) is JobState.RUNNING

    def end(self, name: str) -> tuple[str, int | None, int]:
        job = self._store.wait(self._ids[name], 60)
        return job.state, job.exit_code, job.attempt - job.uncounted

    def moved(self, name: str) -> list[str]:
        return [after for job, _, after in moves(self._url) if job == self._ids[name]]

    def runs(self) -> list[str]:
        return sorted((self._folder / "runs").read_text().split())


@pytest.mark.long
@pytest.mark.timeout(180)
@pytest.mark.parametrize("url", ["sqlite"], indirect=True)
def test_half_a_minute_without_a_controller(
    store: JobStore, slurm_plan: JobPlan, node: Slurm, url: str, tmp_path: Path
) -> None:
    jobs = Jobs(store, url, tmp_path)
    first = manage(slurm_plan, tmp_path / "state")
    try:
        for name, code in (("runs-on", 7), ("ends-meanwhile", 3), ("cancelled", 0)):
            jobs.submit(name, code)
        jobs.submit("queued", 0, params={"begin": "now+3600"})
        for name in ("runs-on", "ends-meanwhile", "cancelled"):
            until(lambda name=name: jobs.running(name))
        until(lambda: jobs.state("queued") is JobState.QUEUED)
        node.end_controller()
        back_at = time.monotonic() + OUTAGE
    finally:
        # Somebody else has to find all this again, while the controller is away.
        os.kill(first, signal.SIGKILL)
        os.waitpid(first, 0)
    try:
        with managing(slurm_plan, World(), tmp_path / "state", load=load):
            jobs.submit("new", 0)
            jobs.cancel("cancelled")
            jobs.go("ends-meanwhile")
            # Its folder says so; nobody has to be asked.
            assert jobs.end("ends-meanwhile") == ("error", 3, 1)
            until(lambda: jobs.state("new") is JobState.DISPATCHING)
            same = jobs.states()
            assert same == {
                "runs-on": "running",
                "ends-meanwhile": "error",
                "cancelled": "running",
                "queued": "queued",
                "new": "dispatching",
            }
            while time.monotonic() < back_at:
                assert jobs.states() == same
                time.sleep(0.2)
            node.start_controller()
            assert jobs.end("cancelled")[0] == "cancelled"
            jobs.go("runs-on")
            assert jobs.end("runs-on") == ("error", 7, 1)
            until(lambda: jobs.running("new"))
            jobs.go("new")
            assert jobs.end("new") == ("ok", 0, 1)
            jobs.cancel("queued")
            assert jobs.end("queued")[0] == "cancelled"
    finally:
        if not node.run("scontrol", "ping"):
            node.start_controller()
    assert jobs.moved("runs-on") == ["dispatching", "queued", "running", "error"]
    assert "lost" not in {after for _, _, after in moves(url)}
    assert jobs.runs() == ["cancelled", "ends-meanwhile", "new", "runs-on"]
