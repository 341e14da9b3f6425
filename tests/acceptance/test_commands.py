"""What the verbs do, seen from a shell: exit codes, JSON, and nothing left behind."""

from __future__ import annotations

import os
import signal
import urllib.request

from harness.control import Handover
from harness.engines import light
from harness.instance import Instance
from harness.probe import Connection
from harness.project import Project
from harness.promise import check
from harness.waiting import wait_for

from load.process import LoadProcess


def fetch(project: Project) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{project.port}/?n=a1", timeout=10) as answer:
        return str(answer.read().decode())


def test_restart_picks_up_new_code_and_says_so(project: Project, instance: Instance) -> None:
    instance.start()
    assert fetch(project).endswith(" first\n")
    project.deploy("second")
    said = instance.command("restart", "--json")
    assert said.code == 0, said
    assert said.json["outcome"] == "done"
    assert (said.json["from"], said.json["generation"]) == (1, 2)
    assert said.json["error"] is None
    stages = {stage["stage"]: stage["state"] for stage in said.json["stages"]}
    assert {name for name, state in stages.items() if state == "done"} >= {"boot", "probe", "cut-over", "drain"}, stages
    assert fetch(project).endswith(" second\n")
    instance.settled(2)


def test_supervisor_keeps_its_pid(project: Project, instance: Instance) -> None:
    instance.start()
    before = instance.status()["pid"]
    assert before == instance.pid
    assert instance.command("restart").code == 0
    assert instance.status()["pid"] == before


def test_second_restart_is_refused_while_one_runs(project: Project, instance: Instance) -> None:
    instance.start()
    gate = project.root / "boot"
    project.deploy("slow", "import-gate", gate=str(gate))
    first = instance.handover()
    first.wait_stage("boot", "started")
    said = instance.command("restart", "--json")
    assert said.code == 4, said
    assert "cannot" in said.out + said.err
    gate.touch()
    assert first.result()["outcome"] == "done", first.story()
    instance.settled(2)


def test_sighup_restarts(project: Project, instance: Instance) -> None:
    instance.start()
    project.deploy("second")
    os.kill(instance.pid, signal.SIGHUP)
    wait_for("generation 2 serves", lambda: instance.status()["web"]["live_generation"] == 2)
    wait_for("the new code answers", lambda: fetch(project).endswith(" second\n"))
    instance.settled(2)


def test_stop_leaves_no_process(project: Project, instance: Instance) -> None:
    instance.start()
    said = instance.command("stop")
    assert said.code == 0, said
    wait_for("no process left", lambda: not instance.processes(), 15)
    assert instance.command("status").code == 5


def test_stop_lets_running_requests_finish(project: Project, instance: Instance) -> None:
    instance.start()
    held = [Connection(project.port) for _ in range(3)]
    for number, connection in enumerate(held):
        connection.send(f"/gate?n=stop{number}")
    wait_for("three requests run", lambda: sum(worker["in_flight"] for worker in instance.live()["workers"]) == 3)
    stopping = instance.spawn("stop")
    wait_for("it stops", lambda: instance.status()["state"] == "stopping", interval=0.01)
    for number, connection in enumerate(held):
        (project.gates / f"stop{number}").touch()
        assert connection.read() == 1
        connection.close()
    wait_for("no process left", lambda: not instance.processes(), 20)
    out, err = stopping.communicate(timeout=10)
    assert stopping.returncode == 0, (out, err)


def test_no_supervisor_is_exit_code_5(project: Project, instance: Instance) -> None:
    project.write()
    for verb in ("status", "restart", "rollback", "stop"):
        said = instance.command(verb)
        assert said.code == 5, (verb, said)
        assert "Traceback" not in said.err


def test_status_shows_generation_and_workers(project: Project, instance: Instance) -> None:
    instance.start()
    fetch(project)
    said = instance.command("status", "--json")
    assert said.code == 0
    (generation,) = said.json["generations"]
    assert (generation["number"], generation["state"]) == (1, "serving")
    assert len({worker["name"] for worker in generation["workers"]}) == 2
    assert said.json["web"]["live_generation"] == 1
    human = instance.command("status")
    assert human.code == 0
    assert "serving" in human.out


def test_history_and_logs_tell_what_happened(project: Project, instance: Instance) -> None:
    instance.start()
    project.deploy("bad", "import-error")
    assert instance.command("restart").code == 3
    assert instance.command("restart").code == 3
    entries = instance.control.get("/v1/history")["entries"]
    assert [entry["outcome"] for entry in entries if entry["kind"] == "restart"].count("rolled-back") == 2
    said = instance.command("logs", "--json")
    assert said.code == 0
    assert "deliberate failure at import" in said.out


def test_number_of_workers_changes_with_a_restart(project: Project, instance: Instance) -> None:
    project.config["web"]["max_workers"] = 4
    instance.start()
    clients = light()
    load = LoadProcess(project.root, project.target, clients)
    switches = []
    with load:
        for workers in (4, 1):
            project.config["web"]["workers"] = workers
            project.write()
            switches.append(Handover(instance.control).switch())
            assert len(instance.workers()) == workers
        report = load.stop()
    check(report, 1, switches, clients)
    instance.settled(3)
