"""Callables under a manager: they finish, are given back or are let go when the handler has to leave."""

from __future__ import annotations

from pathlib import Path

import pytest
from manager_tools import World, managing, until

from instar.jobs.model import JobState, OnLost, Submission
from instar.jobs.plan import Destination, JobPlan, RunnerPlan
from instar.jobs.runners import load
from instar.jobs.store import JobStore


@pytest.fixture(params=["thread", "process"])
def plan(request, url: str, tmp_path: Path) -> JobPlan:
    return JobPlan(
        store=url,
        folder=str(tmp_path / "jobs"),
        runners=(RunnerPlan("calls", request.param, workers=2),),
        destinations=(Destination("calls", "calls"),),
        default_destination="calls",
        pool="jobs",
        poll=0.1,
    )


@pytest.fixture
def manage(plan: JobPlan, tmp_path: Path):
    return lambda **options: managing(plan, World(), tmp_path / "state", load=load, **options)


def call(name: str, *args: object, **more: object) -> Submission:
    return Submission(target=f"job_calls:{name}", args=args, **more)


def begun(folder: Path) -> list[str]:
    path = folder / "begun"
    return path.read_text().split() if path.exists() else []


def test_results_and_errors(store: JobStore, manage) -> None:
    with manage():
        good, bad, odd = store.submit_many([call("add", 2, 3), call("fail", "no such luck"), call("nothing")])
        assert store.wait(good, 60).result == 5
        failed = store.wait(bad, 60)
        missing = store.wait(odd, 60)
    assert (failed.state, failed.error) == (JobState.ERROR, "ValueError: no such luck")
    assert missing.state is JobState.ERROR
    assert "'nothing'" in missing.error


def test_what_is_soon_done_finishes(store: JobStore, manage, tmp_path: Path) -> None:
    job = store.submit(call("wait_for_file", str(tmp_path)))
    with manage() as managed:
        until(lambda: begun(tmp_path))
        managed.manager._patience = 60.0
        managed.fake.release()
        (tmp_path / "go").touch()
        managed.thread.join(60)
    assert store.get(job).state is JobState.OK
    assert len(store.attempts(job)) == 1


def test_what_is_given_back_is_done_by_the_successor(store: JobStore, manage, plan: JobPlan, tmp_path: Path) -> None:
    if plan.runners[0].kind == "process":
        pytest.skip("a process isn't told that the handler has to leave")
    job = store.submit(call("give_back", str(tmp_path)))
    with manage():
        until(lambda: store.get(job).progress)
    assert store.get(job).state is JobState.NEW
    with manage():
        assert store.wait(job, 60).result == "done"
    assert [each.ending for each in store.attempts(job)] == ["returned", "exited"]
    assert len(begun(tmp_path)) == 2


def test_what_does_not_end_is_let_go(store: JobStore, manage, tmp_path: Path) -> None:
    job = store.submit(call("stubborn", str(tmp_path)))
    with manage(patience=0.3):
        until(lambda: begun(tmp_path))
    now = store.get(job)
    assert now.state.live
    assert store.attempts(job)[0].let_go
    # In a handler, it would have ended with the process.
    with manage():
        assert store.wait(job, 60).result == "done"
    (tmp_path / "go").touch()
    assert [each.ending for each in store.attempts(job)] == ["returned", "exited"]


def test_cancel(store: JobStore, manage, tmp_path: Path) -> None:
    job = store.submit(call("until_cancelled", str(tmp_path), kill_timeout=60.0))
    with manage():
        until(lambda: begun(tmp_path))
        store.cancel(job)
        assert store.wait(job, 60).state is JobState.CANCELLED


@pytest.mark.parametrize(("on_lost", "state"), [(OnLost.FAIL, "lost"), (OnLost.HOLD, "held")])
def test_what_a_killed_handler_ran_is_lost(
    store: JobStore, manage, plan: JobPlan, tmp_path: Path, on_lost: OnLost, state: str
) -> None:
    """As if the handler had been killed: the attempt is in the store, and nobody knows of it."""
    import dataclasses

    from job_tools import TestHolder, claim, want

    from instar.jobs.store.wanted import Place

    job = store.submit(dataclasses.replace(call("add", 1, 1, on_lost=on_lost), destination="calls"))
    holder = TestHolder("main.jobs.1", tmp_path / "state/main.jobs.1.lock")
    places = {"calls": Place("calls", immediate=True)}
    assert len(claim(store, holder, want(places=places, rooms={"calls": 1}))) == 1
    holder.close()
    with manage():
        until(lambda: store.get(job).state == state)


def test_calls_run_side_by_side_up_to_the_limit_and_the_rest_follows(store: JobStore, manage, tmp_path: Path) -> None:
    for size in (1, 2):
        folder = tmp_path / f"round-{size}"
        folder.mkdir(exist_ok=True)
        jobs = store.submit_many([call("meet", str(folder), number, size) for number in range(size)])
        quick = store.submit_many([call("add", number, 1) for number in range(20)])
        with manage():
            assert {store.wait(job, 60).state for job in (*jobs, *quick)} == {JobState.OK}
