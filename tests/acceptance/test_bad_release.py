"""Bad releases: the old generation answers everything, the exit code is 3, the user sees the release's own error."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from harness.engines import light
from harness.instance import Instance
from harness.project import Project
from harness.promise import breathe, check

from load.process import LoadProcess


@dataclasses.dataclass(frozen=True)
class Bad:
    """One way to be bad, and what the user must be told."""

    kind: str
    says: str
    options: dict[str, Any] = dataclasses.field(default_factory=dict)
    interfaces: tuple[str, ...] = ("asgi", "wsgi")


MATRIX = (
    Bad("import-error", "deliberate failure at import"),
    Bad("missing-target", "app"),
    Bad("hang-import", "within 4 s"),
    Bad("lifespan-error", "deliberate failure at start", interfaces=("asgi",)),
    Bad("hang-lifespan", "within 4 s", interfaces=("asgi",)),
    Bad("health-500", "500"),
    Bad("health-hang", "probe"),
    Bad("worker-error", "deliberate failure at start of worker 2", {"index": 2}, interfaces=("asgi",)),
    Bad("health-500-worker", "500", {"index": 2}),
    Bad("worker-exit", "deliberate failure in worker 2", {"index": 2}),
)
#: The second interface of each is a long test.
CASES = [
    pytest.param(bad, interface, id=f"{interface}-{bad.kind}", marks=[pytest.mark.long] if number else [])
    for bad in MATRIX
    for number, interface in enumerate(bad.interfaces)
]


@pytest.mark.parametrize(("bad", "interface"), CASES)
def test_bad_release_changes_nothing(project: Project, instance: Instance, bad: Bad, interface: str) -> None:
    project.config["app"]["target"] = f"apps.{interface}:app"
    if interface == "wsgi":
        project.config["web"]["threads"] = 8
    project.config["restart"]["boot_timeout"] = 4.0
    project.config["health"]["timeout"] = 1.0
    instance.start()
    clients = light()
    load = LoadProcess(project.root, project.target, clients)
    with load:
        project.deploy("bad", bad.kind, **bad.options)
        said = instance.command("restart", "--json")
        breathe(0.5)
        report = load.stop()
    assert said.code == 3, said
    assert said.json["outcome"] == "rolled-back"
    assert said.json["from"] == 1
    # What never served has no client to wait for: the user is told at once, and may try again.
    assert said.json["seconds"] < 4.0 + 6.0
    told = "\n".join([said.json["error"], *said.json["log_tail"]])
    assert bad.says in told, told
    check(report, 1, [], clients)
    instance.settled(1)
    # And the way out: a good release follows.
    project.deploy("good")
    assert instance.command("restart").code == 0


@pytest.mark.parametrize("interface", ["asgi", pytest.param("wsgi", marks=pytest.mark.long)])
def test_release_that_dies_after_the_switch_is_rolled_back(
    project: Project, instance: Instance, interface: str
) -> None:
    project.config["app"]["target"] = f"apps.{interface}:app"
    project.config["restart"]["grace"] = 5.0
    if interface == "wsgi":
        project.config["web"]["threads"] = 8
    instance.start()
    clients = {"new": {"pause": 0.02, "count": 2}, "idle": {"count": 2, "pause": 0.5}}
    load = LoadProcess(project.root, project.target, clients)
    with load:
        project.deploy("bad", "exit-after", seconds=1.5)
        handover = instance.handover()
        result = handover.result()
        assert result["outcome"] == "rolled-back", handover.story()
        back = handover.events[-1][0]
        assert "9" in result["error"] or "exit" in result["error"], result
        breathe()
        report = load.stop()
    # Requests that a dying process was answering are lost with it; the old generation loses none.
    switched = handover.wait_stage("cut-over")
    late = [record for record in report.failures if record.connect_started > back or record.started < switched - 1]
    assert not late, report.table()
    after = [record for record in report.records if record.connect_started > back]
    assert after
    assert {record.generation for record in after} == {1}, report.table()
    instance.settled(1)


def test_failing_canary_is_aborted(project: Project, instance: Instance) -> None:
    project.config["restart.canary"] = {
        "share": 0.5,
        "duration": 20.0,
        "max_error_rate": 0.1,
        "min_requests": 10,
    }
    instance.start()
    clients = {"new": {"pause": 0.02, "count": 2}, "idle": {"count": 4, "pause": 0.5}}
    load = LoadProcess(project.root, project.target, clients)
    with load:
        project.deploy("bad", "errors")
        said = instance.command("restart", "--json")
        breathe()
        report = load.stop()
    assert said.code == 3, said
    assert said.json["seconds"] < 15, "aborted by its error rate, not at the end of its time"
    assert "error" in said.json["error"], said.json
    # The canary's own 500s are all that went wrong, and they end with it.
    assert {record.generation for record in report.failures} == {2}, report.table()
    assert all("status 500" in record.detail for record in report.failures), report.table()
    last = max(record.ended for record in report.failures)
    newest = max(record.ended for record in report.records)
    assert newest - last > 0.5, report.table()
    instance.settled(1)


def test_good_canary_gets_its_share_then_everything(project: Project, instance: Instance) -> None:
    instance.start()
    clients = {"new": {"count": 3, "pause": 0.01}}
    load = LoadProcess(project.root, project.target, clients)
    with load:
        project.deploy("good")
        handover = instance.handover({"canary": {"share": 0.25, "networks": [], "duration": 3.0}})
        begun = handover.wait_stage("canary", "started")
        handover.wait_stage("canary", "done")
        ended = handover.time_of("canary", "done") or 0.0
        switched = handover.wait_stage("cut-over")
        handover.result()
        breathe(0.5)
        report = load.stop()
    assert not report.failures, report.table()
    during = [
        record for record in report.records if begun + 0.5 < record.connect_started and record.ended < ended - 0.5
    ]
    share = sum(record.generation == 2 for record in during) / len(during)
    # 25 % of some hundred connections: six standard deviations are wider than this on no run.
    assert len(during) > 100
    assert 0.08 < share < 0.45, (share, len(during))
    assert {record.generation for record in report.records if record.connect_started > switched} == {2}


def test_an_interpreter_that_is_too_old_is_named(project: Project, instance: Instance) -> None:
    """It stops at the first option that it doesn't know, as Pythons before 3.11 do."""
    instance.start()
    old = project.root / "python"
    old.write_text("#!/bin/sh\necho 'Unknown option: -P' >&2\nexit 2\n")
    old.chmod(0o755)
    project.config["app"]["python"] = str(old)
    project.write()
    said = instance.command("restart", "--json")
    assert said.code == 3, said
    assert f"cannot run the application under {old}" in said.json["error"]
    assert "Python 3.11 or newer is needed" in said.json["error"]
