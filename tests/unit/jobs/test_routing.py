"""What an application's process adds to a submission from the plan that it was given."""

from __future__ import annotations

from pathlib import Path

import pytest

from instar.jobs import JobStore, SubmissionError, submit
from instar.jobs.model import Submission
from instar.jobs.plan import Destination, JobPlan, Rule, RunnerPlan
from instar.jobs.routing import Router


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> JobStore:
    url = str(tmp_path / "jobs.db")
    plan = JobPlan(
        store=url,
        folder="",
        runners=(RunnerPlan("local", "local"),),
        destinations=(Destination("local", "local"), Destination("large", "local", tags=("much",))),
        rules=(Rule("bwa", destination="large", params={"mem": "4G"}),),
    )
    document = tmp_path / "jobs-1.json"
    document.write_text(plan.to_json())
    monkeypatch.setenv("INSTAR_JOBS", str(document))
    return JobStore.open(url)


@pytest.mark.parametrize(
    ("wishes", "destination"),
    [({}, "local"), ({"kind": "bwa"}, "large"), ({"destination": "much"}, "large"), ({"destination": ""}, "local")],
)
def test_destinations(store: JobStore, wishes: dict, destination: str) -> None:
    assert store.get(submit(["true"], **wishes)).submission.destination == destination


def test_a_destination_that_is_not_there(store: JobStore) -> None:
    """Nobody would ever take it, and the default isn't what was asked for."""
    with pytest.raises(SubmissionError, match="no destination 'nowhere' here; known are local, large, thread"):
        submit(["true"], destination="nowhere")
    assert store.stats().states == {}


def test_callables_go_where_they_can_run(store: JobStore) -> None:
    assert store.get(submit("a:b")).submission.destination == "thread"


@pytest.mark.parametrize(("optional", "destination"), [(False, "far"), (True, "thread")])
def test_callables_do_not_go_to_a_runner_that_may_be_missing(optional: bool, destination: str) -> None:
    runners = (RunnerPlan("local", "local"), RunnerPlan("far", "pulsar", optional=optional))
    plan = JobPlan("", "", runners=runners, destinations=(Destination("local", "local"), Destination("far", "far")))
    router = Router(plan)
    assert router.route(Submission(target="a:b")).destination == destination
    assert router.route(Submission(target="a:b", destination="far")).destination == "far"
