"""A manager that is killed, or stopped and continued, between any two of its steps, with jobs here and in Slurm."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from job_tools import command, moves
from manager_tools import World, managing, until
from slurm_node import Slurm

from instar.handlers.errors import Fenced
from instar.jobs import housekeeping
from instar.jobs.crew import Crew
from instar.jobs.manager import Manager
from instar.jobs.model import ENDED
from instar.jobs.plan import JobPlan
from instar.jobs.routing import completed
from instar.jobs.runners import load
from instar.jobs.store import JobStore
from instar.testing import fake_handler

POINTS = ["claimed", "starting", "started", "recorded", "ended", "finished"]
#: The same, and within the call of sbatch: it hasn't reached the controller yet, it will only when the successor has
#: decided, its answer is on its way. `running`: it is recorded that the job has begun.
SLURM_POINTS = ["claimed", "starting", "before", "late", "after", "started", "recorded", "running", "ended", "finished"]
FENCED = 9


@pytest.fixture
def plan(url: str, tmp_path: Path) -> JobPlan:
    return completed(JobPlan(store=url, folder=str(tmp_path / "jobs"), pool="jobs", poll=0.1))


Interrupt = Callable[[JobPlan, str, int], int]


@pytest.fixture
def interrupted(tmp_path: Path) -> Iterator[Interrupt]:
    """Start a manager that gets the signal at the point; gives its pid once that has happened."""
    pids: list[int] = []

    def start(plan: JobPlan, point: str, sig: int) -> int:
        if point in ("before", "late", "after"):
            (tmp_path / "act").write_text(f"{point} {int(sig)}\n")
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
    # It is recorded first that Slurm has it, then that it has begun.
    where, left = ("recorded", 2) if point == "running" else (point, 1)

    def at(reached: str, key: str) -> None:
        nonlocal left
        if reached == where:
            left -= 1
            if left == 0:
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
    """It ends when there is no file `wait`."""
    wait = f"while [ -e {runs.parent}/wait ]; do sleep 0.05; done"
    return store.submit(command("sh", "-c", f"echo $INSTAR_JOB_KEY >>{runs}; echo out; {wait}; exit 3"))


def check(store: JobStore, url: str, job: int, runs: Path) -> None:
    """It ended once, as it did, and ran once; whichever attempt it was."""
    now = store.get(job)
    assert (now.state, now.exit_code) == ("error", 3), now
    keys = runs.read_text().split()
    attempts = store.attempts(job)
    assert keys == [attempts[-1].dispatch_key], attempts
    assert [each.ending for each in attempts[:-1]] == ["never started"] * (len(attempts) - 1)
    assert [each.number for each in attempts] == list(range(1, len(attempts) + 1))
    epochs = [each.epoch for each in attempts]
    assert epochs == sorted(epochs)
    ends = [after for moved, _, after in moves(url) if moved == job and after in ENDED]
    assert ends == ["error"]


def kill_at(point: str, plan: JobPlan, store: JobStore, interrupted: Interrupt, folder: Path) -> None:
    runs = folder / "runs"
    if point == "running":
        (folder / "wait").touch()
    job = submit(store, runs)
    interrupted(plan, point, signal.SIGKILL)
    (folder / "wait").unlink(missing_ok=True)
    epochs = [each.epoch for each in store.attempts(job)]
    with managing(plan, World(), folder / "state", load=load) as managed:
        store.wait(job, 60)
        assert managed.fake.handler.epoch > max(epochs)
    check(store, plan.store, job, runs)


def stop_at(point: str, plan: JobPlan, store: JobStore, interrupted: Interrupt, folder: Path) -> None:
    """The successor has another state directory: only so can it have the name while the stopped one lives."""
    runs = folder / "runs"
    if point == "running":
        (folder / "wait").touch()
    job = submit(store, runs)
    zombie = interrupted(plan, point, signal.SIGSTOP)
    (folder / "wait").unlink(missing_ok=True)
    with managing(plan, World(), folder / "other", load=load):
        store.wait(job, 60)
        check(store, plan.store, job, runs)
        os.kill(zombie, signal.SIGCONT)
        _, status = os.waitpid(zombie, 0)
        assert os.waitstatus_to_exitcode(status) == FENCED
        again = submit(store, runs)
        until(lambda: store.get(again).state.ended)
    assert len(runs.read_text().split()) == 2
    check(store, plan.store, job, first_line(runs))
    assert store.attempts(job)[-1].ending == "exited"


def first_line(runs: Path) -> Path:
    path = runs.with_name("first")
    path.write_text(runs.read_text().split()[0])
    return path


@pytest.mark.parametrize("point", POINTS)
def test_killed(store: JobStore, plan: JobPlan, interrupted: Interrupt, tmp_path: Path, point: str) -> None:
    kill_at(point, plan, store, interrupted, tmp_path)


@pytest.mark.parametrize("point", POINTS)
def test_stopped_and_continued(
    store: JobStore, plan: JobPlan, interrupted: Interrupt, tmp_path: Path, point: str
) -> None:
    stop_at(point, plan, store, interrupted, tmp_path)


@pytest.mark.long
@pytest.mark.parametrize("point", SLURM_POINTS)
def test_killed_with_slurm(
    store: JobStore, slurm_plan: JobPlan, interrupted: Interrupt, tmp_path: Path, node: Slurm, point: str
) -> None:
    kill_at(point, slurm_plan, store, interrupted, tmp_path)
    nothing_left(node, store, tmp_path, late=point == "late")


@pytest.mark.long
@pytest.mark.parametrize("point", SLURM_POINTS)
def test_stopped_and_continued_with_slurm(
    store: JobStore, slurm_plan: JobPlan, interrupted: Interrupt, tmp_path: Path, node: Slurm, point: str
) -> None:
    stop_at(point, slurm_plan, store, interrupted, tmp_path)
    nothing_left(node, store, tmp_path, late=point == "late")


def nothing_left(node: Slurm, store: JobStore, folder: Path, *, late: bool) -> None:
    """What Slurm was given when it was decided that it never begins has turned away."""
    if late:
        first = store.attempts(1)[0]
        assert first.ending == "never started"
        until(lambda: node.jobs().get(first.dispatch_key) == "FAILED")
    runs = (folder / "runs").read_text()
    until(lambda: not node.run("squeue", "-h"))
    assert (folder / "runs").read_text() == runs
