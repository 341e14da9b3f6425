"""SIGKILL for any worker or zygote, idle or in the middle of a restart: service goes on, and the state is right."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest
from harness.engines import ENGINES, Engine
from harness.instance import Instance
from harness.probe import ask
from harness.processes import alive
from harness.project import Project
from harness.promise import breathe
from harness.waiting import wait_for

from load.ledger import Outcome
from load.process import LoadProcess


def kill(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)


def serves(project: Project, seconds: float = 2.0) -> set[int]:
    """New connections are answered all the time; the generations that did."""
    end, seen = time.monotonic() + seconds, set()
    while time.monotonic() < end:
        seen.add(ask(project.port))
    return seen


@pytest.mark.parametrize("engine", ENGINES, ids=str)
def test_killed_worker_is_replaced(project: Project, instance: Instance, engine: Engine) -> None:
    engine.configure(project)
    instance.start()
    victim, other = instance.workers()
    kill(victim)
    assert serves(project) == {1}
    wait_for("another worker", lambda: victim not in instance.workers() and len(instance.workers()) == 2)
    assert other in instance.workers()
    instance.settled(1)


def test_killed_worker_costs_only_what_it_was_answering(project: Project, instance: Instance) -> None:
    """Whoever waits in its socket is answered by the next one."""
    instance.start()
    clients = {"new": {"count": 2}, "busy": {"count": 2}, "idle": {"count": 6, "pause": 0.5}}
    load = LoadProcess(project.root, project.target, clients)
    with load:
        victim, _ = instance.workers()
        killed = time.monotonic()
        kill(victim)
        wait_for("another worker", lambda: victim not in instance.workers() and len(instance.workers()) == 2)
        breathe()
        report = load.stop()
    # At most one request on each of the ten clients' connections was there to lose, and all at once.
    assert len(report.failures) <= 10, report.table()
    assert all(killed - 0.5 < record.ended < killed + 1.0 for record in report.failures), report.table()
    # What a client holds open dies with the process, too.
    assert len(report.select(Outcome.CLOSED_IDLE)) <= 10, report.table()
    instance.settled(1)


def test_all_workers_killed_at_once(project: Project, instance: Instance) -> None:
    instance.start()
    for pid in instance.workers():
        kill(pid)
    assert serves(project) == {1}
    instance.settled(1)


def test_worker_killed_again_and_again(project: Project, instance: Instance) -> None:
    instance.start()
    for _ in range(4):
        victim = instance.workers()[0]
        kill(victim)
        wait_for("another worker", lambda gone=victim: gone not in instance.workers() and len(instance.workers()) == 2)
    assert serves(project, 1.0) == {1}
    instance.settled(1)


@pytest.mark.parametrize("interface", ["asgi", "wsgi"])
def test_killed_zygote(project: Project, instance: Instance, interface: str) -> None:
    project.config["app"]["target"] = f"apps.{interface}:app"
    instance.start()
    zygote = instance.live()["pid"]
    kill(zygote)
    seen = serves(project, 3.0)
    wait_for("another zygote", lambda: instance.live()["pid"] not in (zygote, None))
    number = instance.live()["number"]
    assert seen <= {1, number}
    instance.settled(number)
    assert instance.command("restart").code == 0
    instance.settled(instance.live()["number"])


def test_killed_zygote_comes_back_with_its_own_release(project: Project, instance: Instance) -> None:
    """The release is pinned: what was deployed since then has to wait for a restart."""
    instance.start()
    project.deploy("not asked for", "import-error")
    zygote = instance.live()["pid"]
    kill(zygote)
    wait_for("another zygote", lambda: instance.live()["pid"] not in (zygote, None))
    instance.settled(instance.live()["number"])
    assert ask(project.port)


class TestMidRestart:
    """The boot of generation 2 is held by a gate, so that the moment of the kill is certain."""

    @pytest.fixture
    def gate(self, project: Project) -> Path:
        return project.root / "boot"

    @pytest.fixture
    def booting(self, request: pytest.FixtureRequest, project: Project, instance: Instance, gate: Path) -> int:
        """Generation 2 imports; its zygote's pid."""
        instance.start()
        hang = request.function.__name__ == "test_new_worker"
        project.deploy("second", "import-gate", gate=str(gate), hang=hang)
        self.handover = instance.handover()
        self.handover.wait_stage("boot", "started")

        def zygote() -> int:
            return next((int(item["pid"] or 0) for item in instance.status()["generations"] if item["number"] == 2), 0)

        return wait_for("the second zygote", zygote)

    def test_new_zygote(self, project: Project, instance: Instance, booting: int, gate: Path) -> None:
        kill(booting)
        result = self.handover.result()
        assert result["outcome"] == "rolled-back", self.handover.story()
        assert serves(project, 0.5) == {1}
        instance.settled(1)
        gate.touch()
        assert instance.command("restart").code == 0

    def test_new_worker(self, project: Project, instance: Instance, booting: int, gate: Path) -> None:
        # What the gate held back is imported; now the workers' start hangs.
        gate.touch()
        pid = wait_for("a worker of generation 2", lambda: next(iter(instance.workers(2)), 0))
        kill(pid)
        result = self.handover.result(20)
        assert result["outcome"] == "rolled-back", self.handover.story()
        assert serves(project, 0.5) == {1}
        instance.settled(1)

    def test_old_worker(self, project: Project, instance: Instance, booting: int, gate: Path) -> None:
        kill(instance.workers(1)[0])
        assert serves(project, 1.0) == {1}
        gate.touch()
        assert self.handover.result()["outcome"] == "done", self.handover.story()
        assert serves(project, 0.5) == {2}
        instance.settled(2)

    def test_old_zygote(self, project: Project, instance: Instance, booting: int, gate: Path) -> None:
        kill(instance.generation(1)["pid"])
        assert serves(project, 1.0) <= {1, 2}
        gate.touch()
        self.handover.result()
        number = instance.live()["number"]
        assert serves(project, 0.5) == {number}
        instance.settled(number)


def test_old_zygote_killed_while_it_drains(project: Project, instance: Instance) -> None:
    project.config["restart"]["drain_timeout"] = 4.0
    instance.start()
    with_client = Held(project)
    handover = instance.handover()
    handover.wait_stage("cut-over")
    kill(instance.generation(1)["pid"])
    assert serves(project, 0.5) == {2}
    assert handover.result()["outcome"] == "done", handover.story()
    with_client.close()
    instance.settled(2)


def test_new_worker_killed_within_the_grace_period(project: Project, instance: Instance) -> None:
    """A crash right behind the switch is taken for the new release's fault."""
    project.config["restart"]["grace"] = 20.0
    instance.start()
    with_client = Held(project)
    handover = instance.handover()
    handover.wait_stage("cut-over")
    kill(instance.workers(2)[0])
    result = handover.result()
    assert result["outcome"] == "rolled-back", handover.story()
    assert serves(project, 1.0) == {1}
    with_client.close()
    instance.settled(1)


class Held:
    """A keep-alive connection that stays open and idle, so that its generation keeps draining."""

    def __init__(self, project: Project) -> None:
        from harness.probe import Connection

        self._connection = Connection(project.port)
        self._connection.ask()

    def close(self) -> None:
        self._connection.close()


def test_killed_supervisor_leaves_a_generation_that_serves_on(project: Project, instance: Instance) -> None:
    """When it has gone as well, the next supervisor starts clean, and says so."""
    instance.start()
    zygote = instance.live()["pid"]
    instance.kill_supervisor()
    assert ask(project.port) == 1
    os.kill(zygote, signal.SIGTERM)
    wait_for("the old generation has gone", lambda: not alive(zygote))
    instance.start()
    # The numbers go on.
    assert instance.live()["number"] == 2
    assert "nothing of it lives: a clean start" in instance.evidence()
