"""`restart --keep-old` and `rollback`: the way back is a switch, not a boot."""

from __future__ import annotations

from harness.engines import light
from harness.instance import Instance
from harness.probe import read
from harness.project import Project
from harness.promise import breathe, check

from load.process import LoadProcess
from load.purity import Switch


def test_rollback_to_the_kept_generation(project: Project, instance: Instance) -> None:
    instance.start()
    clients = light()
    load = LoadProcess(project.root, project.target, clients)
    with load:
        project.deploy("second")
        forth = instance.handover({"keep_old": 120.0})
        result = forth.result()
        assert result["outcome"] == "done", forth.story()
        there = Switch(1, 2, forth.asked, forth.wait_stage("cut-over"))
        breathe()
        kept = instance.generation(1)
        assert kept["state"] not in ("stopped", "failed"), kept
        back = instance.handover(path="/v1/rollback")
        assert back.result()["outcome"] == "done", back.story()
        home = Switch(2, 1, back.asked, back.wait_stage("cut-over"), back.events[-1][0])
        breathe()
        report = load.stop()
    # Milliseconds on a quiet machine; a boot would take far longer than this on any.
    assert home.switched - home.asked < 0.5, back.story()
    check(report, 1, [there, home], clients)
    assert instance.status()["web"]["live_generation"] == 1
    instance.settled(1)


def test_kept_generation_ends_with_the_next_restart(project: Project, instance: Instance) -> None:
    instance.start()
    assert instance.command("restart", "--keep-old", "5m").code == 0
    assert instance.command("restart").code == 0
    instance.settled(3)


def test_rollback_without_a_kept_generation_boots_the_release_before(project: Project, instance: Instance) -> None:
    """Releases are pinned to the folder that the link pointed at."""
    instance.start()
    project.deploy("second")
    assert instance.command("restart").code == 0
    assert read(project).release == "second"
    said = instance.command("rollback", "--json")
    assert said.code == 0, said
    assert read(project).release == "first"
    instance.settled(said.json["serving"])
