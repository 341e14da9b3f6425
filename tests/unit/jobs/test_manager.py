"""What a manager does with jobs, on each store, with a runner that does what the test says."""

from __future__ import annotations

from pathlib import Path

import pytest
from job_tools import command
from manager_tools import FakeRunner, World, a_plan, managing, until

from instar.errors import ConfigError
from instar.handlers.errors import Fenced
from instar.jobs.crew import Crew
from instar.jobs.errors import StoreError
from instar.jobs.model import JobState, OnLost, Submission
from instar.jobs.plan import Destination, JobPlan, RunnerPlan
from instar.jobs.runners import load
from instar.jobs.runners.base import Notice, Phase, RefusedError, Runner, UnavailableError
from instar.jobs.store import JobStore


@pytest.fixture
def world() -> World:
    return World()


def done(assignment: object, code: int = 0) -> Notice:
    return Notice(assignment.key, Phase.ENDED, exit_code=code, started_at=5.0, finished_at=6.0)


def test_jobs_are_run(store: JobStore, url: str, world: World, tmp_path: Path) -> None:
    world.script = lambda assignment: done(assignment, 7 if assignment.argv == ("false",) else 0)
    with managing(a_plan(url), world, tmp_path):
        good, bad = store.submit(command()), store.submit(command("false"))
        assert store.wait(good, 60).state is JobState.OK
        job = store.wait(bad, 60)
    assert (job.state, job.exit_code, job.error) == (JobState.ERROR, 7, "it ended with exit status 7")
    assert (job.started_at, job.finished_at, job.holder) == (5.0, 6.0, "main.jobs.1")
    assert sorted(world.begun) == [f"{store.site}-{good}-a1", f"{store.site}-{bad}-a1"]


def test_never_more_than_there_is_room_for(store: JobStore, url: str, world: World, tmp_path: Path) -> None:
    jobs = store.submit_many([command() for _ in range(10)])
    with managing(a_plan(url), world, tmp_path):
        for ended in range(10):
            until(lambda: len(world.begun) == min(10, ended + 4))  # noqa: B023
            until(lambda: store.stats().states.get("running") == min(4, 10 - ended))  # noqa: B023
            world.end(Notice(world.begun[ended], Phase.ENDED, exit_code=0))
        for job in jobs:
            assert store.wait(job, 60).state is JobState.OK
    assert len(world.begun) == len(set(world.begun)) == 10


def test_what_runs_is_found_again_by_the_successor(store: JobStore, url: str, world: World, tmp_path: Path) -> None:
    job = store.submit(command())
    with managing(a_plan(url), world, tmp_path) as first:
        until(lambda: store.get(job).state is JobState.RUNNING)
        epoch = first.fake.handler.epoch
    assert store.get(job).state is JobState.RUNNING
    with managing(a_plan(url), world, tmp_path) as second:
        until(lambda: store.events(job))
        assert second.fake.handler.epoch > epoch
        world.end(Notice(world.begun[0], Phase.ENDED, exit_code=3))
        assert store.wait(job, 60).exit_code == 3
    assert len(world.begun) == 1
    assert world.assignments[world.begun[0]].external_id == f"ext-{world.begun[0]}"


def test_what_ended_while_nobody_looked(store: JobStore, url: str, world: World, tmp_path: Path) -> None:
    job = store.submit(command())
    with managing(a_plan(url), world, tmp_path):
        until(lambda: store.get(job).state is JobState.RUNNING)
    world.end(Notice(world.begun[0], Phase.ENDED, signal=9))
    with managing(a_plan(url), world, tmp_path):
        job_now = store.wait(job, 60)
    assert (job_now.state, job_now.signal) == (JobState.ERROR, 9)


def test_lost_and_retried(store: JobStore, url: str, world: World, tmp_path: Path) -> None:
    job = store.submit(command(on_lost=OnLost.RETRY, max_attempts=2, backoff=0.0))
    with managing(a_plan(url), world, tmp_path):
        until(lambda: world.begun)
        world.end(Notice(world.begun[0], Phase.LOST))
        until(lambda: len(world.begun) == 2)
        world.end(Notice(world.begun[1], Phase.LOST))
        assert store.wait(job, 60).state is JobState.LOST
    assert [each.ending for each in store.attempts(job)] == ["lost", "lost"]


def test_unknown_is_asked_again_and_never_an_end(store: JobStore, url: str, world: World, tmp_path: Path) -> None:
    """`start` was answered by nobody: whether the attempt began is found out, and a new one is made if it did not."""
    world.trouble["start"] = [UnavailableError("cannot reach the controller")]
    world.trouble["recover"] = [UnavailableError("cannot reach the controller"), OSError("odd")]
    world.script = done
    job = store.submit(command())
    with managing(a_plan(url), world, tmp_path):
        assert store.wait(job, 60).state is JobState.OK
    assert [each.ending for each in store.attempts(job)] == ["never started", "exited"]
    assert len(world.begun) == 1


def test_refused(store: JobStore, url: str, world: World, tmp_path: Path) -> None:
    world.trouble["start"] = [RefusedError("cannot start nowhere: no such file")]
    job = store.submit(command("nowhere", max_attempts=9))
    with managing(a_plan(url), world, tmp_path):
        now = store.wait(job, 60)
    assert (now.state, now.error) == (JobState.ERROR, "cannot start nowhere: no such file")


def test_cancel(store: JobStore, url: str, world: World, tmp_path: Path) -> None:
    job = store.submit(command(max_attempts=3))
    world.trouble["cancel"] = [UnavailableError("not now")]
    with managing(a_plan(url), world, tmp_path):
        until(lambda: store.get(job).state is JobState.RUNNING)
        store.cancel(job)
        now = store.wait(job, 60)
    assert (now.state, now.signal) == (JobState.CANCELLED, 15)
    assert store.attempts(job)[0].ending == "cancelled"


def test_a_cancel_while_nobody_looks_after_it(store: JobStore, url: str, world: World, tmp_path: Path) -> None:
    job = store.submit(command())
    with managing(a_plan(url), world, tmp_path):
        until(lambda: store.get(job).state is JobState.RUNNING)
    store.cancel(job)
    with managing(a_plan(url), world, tmp_path):
        assert store.wait(job, 60).state is JobState.CANCELLED


def test_progress_is_copied(store: JobStore, url: str, world: World, tmp_path: Path) -> None:
    job = store.submit(command())
    with managing(a_plan(url), world, tmp_path):
        assert until(lambda: store.get(job).progress) == {"key": world.begun[0]}


def test_the_last_progress_is_kept(store: JobStore, url: str, world: World, tmp_path: Path) -> None:
    """It may come after the last look."""
    world.script = lambda given: Notice(given.key, Phase.ENDED, exit_code=0, progress={"done": 6, "total": 6})
    with managing(a_plan(url), world, tmp_path):
        assert store.wait(store.submit(command()), 60).progress == {"done": 6, "total": 6}


def test_progress_that_was_seen_but_not_written_is_kept(
    store: JobStore, url: str, world: World, tmp_path: Path
) -> None:
    job = store.submit(command())
    with managing(a_plan(url), world, tmp_path):
        until(lambda: store.get(job).progress)
        world.end(Notice(world.begun[0], Phase.ENDED, exit_code=0))
        assert store.wait(job, 60).progress == {"key": world.begun[0]}


def test_jobs_reassigned_to_a_manager_at_work(store: JobStore, url: str, world: World, tmp_path: Path) -> None:
    job = store.submit(command(handler="main.gone.1"))
    with managing(a_plan(url), world, tmp_path, name="main.gone.1"):
        until(lambda: store.get(job).state is JobState.RUNNING)
    with managing(a_plan(url), world, tmp_path):
        store.reassign("main.gone.1", "main.jobs.1", live=True)
        until(lambda: [each for each in store.events(job) if each.what == "adopted"])
        world.end(Notice(world.begun[0], Phase.ENDED, exit_code=0))
        assert store.wait(job, 60).state is JobState.OK
    assert len(world.begun) == 1


def test_a_manager_that_lost_its_name_leaves_all_as_it_is(
    store: JobStore, url: str, world: World, tmp_path: Path
) -> None:
    job = store.submit(command())
    with pytest.raises(Fenced), managing(a_plan(url), world, tmp_path) as managed:
        until(lambda: store.get(job).state is JobState.RUNNING)
        managed.fake.lose()
        # Whatever it writes next is refused.
        world.end(Notice(world.begun[0], Phase.ENDED, exit_code=0))
        managed.thread.join(60)
    assert store.get(job).state is JobState.RUNNING
    with managing(a_plan(url), world, tmp_path / "2"):
        assert store.wait(job, 60).state is JobState.OK
    assert len(world.begun) == 1


def test_nothing_is_lost_while_the_store_is_away(
    store: JobStore, url: str, world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = store.submit(command())
    with managing(a_plan(url), world, tmp_path) as managed:
        until(lambda: store.get(job).state is JobState.RUNNING)
        real = managed.manager.store.turn
        tries: list[int] = []

        def broken(holder: object) -> object:
            tries.append(1)
            if len(tries) < 3:
                raise StoreError("cannot reach the job store: it is away")
            return real(holder)

        monkeypatch.setattr(managed.manager.store, "turn", broken)
        world.end(Notice(world.begun[0], Phase.ENDED, exit_code=0))
        assert store.wait(job, 60).state is JobState.OK
    assert len(tries) >= 3


def test_destinations_and_rules(store: JobStore, url: str, world: World, tmp_path: Path) -> None:
    from instar.jobs.plan import Rule

    plan = a_plan(
        url,
        runners=(RunnerPlan("fake", "fake"), RunnerPlan("big", "fake", workers=1)),
        destinations=(
            Destination("fake", "fake", env={"A": "1"}, timeout=5.0),
            Destination("b", "big", params={"cpus": 2, "mem": 3}, tags=("large",)),
        ),
        rules=(Rule("blast", destination="large", params={"mem": 4}), Rule("elsewhere", handler="main.x.1")),
    )
    world.script = done
    with managing(plan, world, tmp_path):
        plain = store.submit(command(env={"B": "2"}))
        blast = store.submit(command(kind="blast", timeout=9.0))
        other = store.submit(command(kind="elsewhere"))
        callable_ = store.submit(Submission(target="a:b", args=(1,)))
        for job in (plain, blast, callable_):
            assert store.wait(job, 60).state is JobState.OK
    assert store.get(other).state is JobState.NEW
    assert store.get(other).submission.tag == "main.x.1"
    by_job = {assignment.job_id: assignment for assignment in world.assignments.values()}
    assert (by_job[plain].env, by_job[plain].timeout, by_job[plain].params) == ({"A": "1", "B": "2"}, 5.0, {})
    assert (by_job[blast].params, by_job[blast].timeout) == ({"cpus": 2, "mem": 4}, 9.0)
    assert (by_job[callable_].target, by_job[callable_].args) == ("a:b", (1,))
    with managing(plan, world, tmp_path, name="main.x.1"):
        assert store.wait(other, 60).state is JobState.OK


def test_a_runner_that_is_not_there(store: JobStore, url: str, world: World, tmp_path: Path) -> None:
    """Its job is left as it is, until somebody configures the runner again."""
    job = store.submit(command())
    with managing(a_plan(url), world, tmp_path):
        until(lambda: store.get(job).state is JobState.RUNNING)
    without = a_plan(
        url, runners=(RunnerPlan("new", "fake"),), destinations=(Destination("new", "new"),), default_destination="new"
    )
    other = store.submit(command())
    world.script = done
    with managing(without, world, tmp_path):
        assert store.wait(other, 60).state is JobState.OK
    assert store.get(job).state is JobState.RUNNING


def test_a_runner_that_is_not_installed(store: JobStore, url: str, world: World, tmp_path: Path) -> None:
    """Jobs for one that is optional wait; others are run."""
    places = (Destination("fake", "fake"), Destination("far", "pulsar"))

    def plan(*, optional: bool) -> JobPlan:
        runners = (RunnerPlan("fake", "fake"), RunnerPlan("pulsar", "pulsar", optional=optional))
        return a_plan(url, runners=runners, destinations=places)

    class Bound(FakeRunner):
        pass

    Bound.world, world.script = world, done

    def find(kind: str) -> type[Runner]:
        return Bound if kind == "fake" else load(kind)

    far, near = store.submit(command(destination="far")), store.submit(command())
    with managing(plan(optional=True), world, tmp_path, load=find):
        assert store.wait(near, 60).state is JobState.OK
    assert store.get(far).state is JobState.NEW
    with pytest.raises(ConfigError, match="cannot find a runner 'pulsar'"):
        Crew(plan(optional=False), "main.jobs.1", find)


def test_old_jobs_are_deleted_with_what_they_left(store: JobStore, url: str, world: World, tmp_path: Path) -> None:
    world.script = done
    with managing(a_plan(url, keep=0.001), world, tmp_path) as managed:
        job = store.submit(command())
        store.wait(job, 60)
        managed.manager._house._round_at = 0.0
        assert until(lambda: world.discarded) == [f"{store.site}-{job}-a1"]
    assert store.find() == []
