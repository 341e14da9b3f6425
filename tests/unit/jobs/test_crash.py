"""A manager that is killed, or stopped and continued, between any two of its steps, with real local jobs."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from job_tools import command
from manager_tools import World, managing, until

from instar.handlers.errors import Fenced
from instar.jobs import housekeeping
from instar.jobs.crew import Crew
from instar.jobs.manager import Manager
from instar.jobs.plan import JobPlan
from instar.jobs.routing import completed
from instar.jobs.runners import load
from instar.jobs.store import JobStore
from instar.testing import fake_handler

POINTS = ["claimed", "starting", "started", "recorded", "ended", "finished"]
FENCED = 9


@pytest.fixture
def plan(url: str, tmp_path: Path) -> JobPlan:
    return completed(JobPlan(store=url, folder=str(tmp_path / "jobs"), pool="jobs", poll=0.1))


@pytest.fixture
def interrupted(plan: JobPlan, tmp_path: Path) -> Iterator:
    """Start a manager that gets the signal at the point; gives its pid once that has happened."""
    pids: list[int] = []

    def start(point: str, sig: int) -> int:
        pid = os.fork()
        if pid == 0:
            _manage(plan, tmp_path / "state", point, sig)
        pids.append(pid)
        _, status = os.waitpid(pid, os.WUNTRACED)
        assert (os.WSTOPSIG if sig == signal.SIGSTOP else os.WTERMSIG)(status) == sig
        return pid

    yield start
    for pid in pids:
        try:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        except (ProcessLookupError, ChildProcessError):
            pass


def _manage(plan: JobPlan, state: Path, point: str, sig: int) -> None:
    code = 1
    done: list[str] = []

    def at(where: str, key: str) -> None:
        if where == point and not done:
            done.append(key)
            os.kill(os.getpid(), sig)

    # A zombie notices with its next sign of life, at the latest.
    housekeeping.BEAT = 0.5
    try:
        with fake_handler("main.jobs.1", "jobs", state_dir=state) as fake:
            fake.activate()
            try:
                Manager(plan, fake.handler, JobStore(plan.store), crew=Crew(plan, fake.handler.name), at=at).run()
            except Fenced:
                code = FENCED
            os._exit(code)
    finally:
        os._exit(code)


def submit(store: JobStore, runs: Path) -> int:
    return store.submit(command("sh", "-c", f"echo $INSTAR_JOB_KEY >>{runs}; echo out; exit 3"))


def check(store: JobStore, job: int, runs: Path) -> None:
    """It ended once, as it did, and ran once; whichever attempt it was."""
    now = store.get(job)
    assert (now.state, now.exit_code) == ("error", 3), now
    keys = runs.read_text().split()
    attempts = store.attempts(job)
    assert keys == [attempts[-1].dispatch_key], attempts
    assert [each.ending for each in attempts[:-1]] == ["never started"] * (len(attempts) - 1)


@pytest.mark.parametrize("point", POINTS)
def test_killed(store: JobStore, plan: JobPlan, interrupted, tmp_path: Path, point: str) -> None:
    runs = tmp_path / "runs"
    job = submit(store, runs)
    interrupted(point, signal.SIGKILL)
    epochs = [each.epoch for each in store.attempts(job)]
    with managing(plan, World(), tmp_path / "state", load=load) as managed:
        store.wait(job, 60)
        assert managed.fake.handler.epoch > max(epochs)
    check(store, job, runs)


@pytest.mark.parametrize("point", POINTS)
def test_stopped_and_continued(store: JobStore, plan: JobPlan, interrupted, tmp_path: Path, point: str) -> None:
    """The successor has another state directory: only so can it have the name while the stopped one lives."""
    runs = tmp_path / "runs"
    job = submit(store, runs)
    zombie = interrupted(point, signal.SIGSTOP)
    with managing(plan, World(), tmp_path / "other", load=load):
        store.wait(job, 60)
        check(store, job, runs)
        os.kill(zombie, signal.SIGCONT)
        _, status = os.waitpid(zombie, 0)
        assert os.waitstatus_to_exitcode(status) == FENCED
        again = submit(store, runs)
        until(lambda: store.get(again).state.ended)
    assert len(runs.read_text().split()) == 2
    assert store.attempts(job)[-1].ending == "exited"
