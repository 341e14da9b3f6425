"""SIGKILL for the supervisor at every stage of a restart, under load, with handlers at work.

Each scene holds one stage open, kills, starts the next supervisor, and lets things go on. Then: no request failed, no
name was ever held twice, the restart ended as the rule says, and one generation is left.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from harness.control import Handover
from harness.engines import ENGINES, Clients, light
from harness.handlers import SCRIPT, all_active, pool, row
from harness.instance import Instance
from harness.processes import Process, alive
from harness.project import Project
from harness.promise import breathe
from harness.waiting import wait_for
from ledger import ALL, Ledger, breaches, stale_rows

from load.ledger import Outcome, Report
from load.process import LoadProcess

WARM = ("test.warm.1", "test.warm.2")
NAMES = (*WARM, "test.script.1")
#: Seconds that a name may be unheld on a machine that does other things.
USUAL = 4.0
#: A holder that takes its time, or a release that is taken back.
LONG = 30.0


class Scene:
    """An instance with handlers under load, and what is needed to interrupt it."""

    def __init__(self, project: Project, instance: Instance, ledger: Ledger) -> None:
        self.project, self.instance, self.ledger = project, instance, ledger
        self.gate = project.root / "gate"
        self.first = (project.root / "current").resolve()
        self._load: LoadProcess | None = None
        self.report: Report | None = None

    # --- before ---

    def configure(self, **restart: Any) -> None:
        """More settings of restarts."""
        self.project.config["restart"].update(restart)

    def gated_hook(self, hook: str, generation: int) -> None:
        """A hook that writes a line and waits for the gate; only if it is told of that generation."""
        script = (
            f"[ $INSTAR_GENERATION = {generation} ] || exit 0; echo ran >> {self.project.root}/hook; "
            f"while [ ! -e {self.gate} ]; do sleep 0.05; done"
        )
        self.project.config["restart"][hook] = [["/bin/sh", "-c", script]]

    def hooks(self) -> int:
        """How often the hook ran."""
        return len((self.project.root / "hook").read_text().splitlines())

    def start(self, clients: Clients | None = None) -> None:
        """Start it, and the load: every client class, unless it is said."""
        self.instance.start()
        all_active(self.instance, NAMES)
        clients = clients or ENGINES[1].clients(self.project)
        self._load = LoadProcess(
            self.project.root, self.project.target, clients, keep_alive=self.project.config["web"]["keep_alive"]
        )
        self._load.__enter__()
        breathe(0.5)

    def misbehave(self, release: Path, kind: str, name: str = "warm") -> None:
        """The handlers of a pool of a release."""
        (release / "trouble").write_text(json.dumps({"kind": kind, "pool": name}))

    # --- the interruption ---

    def restart(self, **body: Any) -> Handover:
        """Ask for a restart and go on."""
        return self.instance.handover(body)

    def journal(self) -> list[dict[str, Any]]:
        """What it has written down."""
        lines = (self.instance.state_dir / "control" / "journal.jsonl").read_text().splitlines()
        return [json.loads(line) for line in lines]

    def written(self, op: str, generation: int) -> None:
        """Wait for an entry of the journal."""

        def found() -> bool:
            return any(entry["op"] == op and entry.get("generation") == generation for entry in self.journal())

        wait_for(f"{op} {generation}", found, 60.0, 0.005)

    def interrupt(self, meanwhile: Callable[[], None] = lambda: None) -> None:
        """SIGKILL, a moment without anybody, and the next supervisor."""
        self.instance.kill_supervisor()
        breathe(0.3)
        meanwhile()
        self.instance.start()

    # --- after ---

    def ended(self, generation: int, outcome: str, *, error: str = "") -> dict[str, Any]:
        """Wait for the end of the interrupted operation, and for one generation that has every name."""

        def result() -> dict[str, Any] | None:
            entries = self.instance.control.get("/v1/history")["entries"]
            return next((entry for entry in entries if entry["kind"] in ("restart", "rollback")), None)

        found = wait_for("the result of the interrupted operation", result, 60.0)
        assert found["outcome"] == outcome, found
        assert error in (found["error"] or ""), found
        self.alone(generation)
        return found

    def alone(self, generation: int) -> None:
        """One generation, with every name."""

        def alone() -> bool:
            status = self.instance.status()
            living = [item["number"] for item in status["generations"] if item["state"] not in ("stopped", "failed")]
            return status["state"] == "serving" and living == [generation]

        wait_for(f"generation {generation} alone", alone, 60.0)
        found = all_active(self.instance, NAMES)
        assert {item["generation"] for item in found.values()} == {generation}, found
        wait_for("no other process of a zygote", lambda: not self.strays(), 30.0)

    def strays(self) -> list[Process]:
        """Zygotes, workers and handlers that the status does not name."""
        found = {int(item["pid"] or 0) for item in self.instance.status()["handlers"]} | set(self.instance.workers())
        named = {*found, self.instance.pid, self.instance.live()["pid"]}
        # The program of a keeper is its child; hooks of the dead supervisor are nobody's.
        below = {pid for parent in named for pid in _children(parent)}
        others = [item for item in self.instance.processes() if item.pid not in named | below]
        return [item for item in others if "bootstrap.py" in item.command]

    def prove(self, generations: set[int], *, lost: bool = False) -> None:
        """What the clients and the handlers have seen. `lost`: processes that served were killed as well."""
        breathe(0.3)
        assert self._load is not None
        report = self._load.stop()
        if not lost:
            assert not report.failures, f"failed requests\n{report.table()}"
            closed = report.select(Outcome.CLOSED_IDLE)
            assert not closed, f"connections closed while idle, unannounced\n{report.table()}"
        assert report.generations() <= generations, report.table()
        assert breaches(self.ledger.lines(), USUAL) == []
        assert stale_rows(self.ledger.store) == []

    def close(self) -> None:
        """End the load."""
        if self._load is not None:
            self._load.__exit__(None, None, None)


def _children(pid: int) -> list[int]:
    with contextlib.suppress(OSError):
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return []


@pytest.fixture
def scene(project: Project, instance: Instance) -> Iterator[Scene]:
    """Not started yet."""
    ledger = Ledger(project.root)
    ENGINES[1].configure(project)
    project.config["app"]["env"].update(ledger.environment)
    project.config["restart"].update(grace=0.5, drain_timeout=6.0)
    pool(project, "warm", target="apps.named:threaded", count=2, stop_timeout=LONG)
    pool(project, "script", script=SCRIPT, stop_timeout=2.0)
    found = Scene(project, instance, ledger)
    try:
        yield found
    finally:
        found.close()
        ledger.close()


long = [pytest.mark.long, pytest.mark.timeout(180)]


def marked(function: Callable[..., None]) -> Callable[..., None]:
    """For the long run."""
    for mark in long:
        function = mark(function)
    return function


@marked
def test_in_the_hook_before(scene: Scene) -> None:
    scene.gated_hook("before", 1)
    scene.start()
    scene.restart().wait_stage("before", "started")
    wait_for("the hook runs", (scene.project.root / "hook").exists)
    scene.interrupt()
    scene.gate.touch()
    scene.ended(1, "rolled-back", error="the supervisor was killed in the stage begun")
    assert scene.instance.command("restart").code == 0
    scene.alone(2)
    scene.prove({1, 2})


@pytest.mark.long
@pytest.mark.timeout(120)
def test_in_the_boot(scene: Scene) -> None:
    scene.start()
    before = all_active(scene.instance, NAMES)
    scene.project.deploy("second", "import-gate", gate=str(scene.gate))
    scene.restart().wait_stage("boot", "started")
    zygote = wait_for("the second zygote", lambda: scene.instance.generation(2)["pid"])
    scene.interrupt()
    scene.ended(1, "rolled-back", error="the supervisor was killed in the stage boot")
    wait_for("the booting one has gone", lambda: not alive(zygote))
    # Nobody has noticed.
    after = all_active(scene.instance, NAMES)
    assert [(row["pid"], row["epoch"]) for row in after.values()] == [(r["pid"], r["epoch"]) for r in before.values()]
    scene.gate.touch()
    assert scene.instance.command("restart").code == 0
    scene.alone(3)
    scene.prove({1, 3})


@marked
def test_as_a_canary(scene: Scene) -> None:
    scene.start()
    handover = scene.restart(canary={"share": 0.3, "duration": "60s"})
    handover.wait_stage("canary", "started")
    breathe(0.5)
    scene.interrupt()
    scene.ended(1, "rolled-back", error="the supervisor was killed in the stage canary")
    scene.prove({1, 2})


@marked
def test_on_the_way_back_before_the_switch(scene: Scene) -> None:
    scene.start()
    handover = scene.restart(canary={"share": 0.5, "duration": "60s"})
    handover.wait_stage("canary", "started")
    breathe(0.5)
    scene.instance.handover(path="/v1/rollback")
    scene.written("give-up", 2)
    scene.interrupt()
    scene.ended(1, "rolled-back", error="aborted by `instar rollback`")
    scene.prove({1, 2})


@pytest.mark.timeout(120)
def test_while_names_move(scene: Scene) -> None:
    """One name has moved, two are still held by the old code, which finishes its work first."""
    scene.misbehave(scene.first, "busy")
    scene.start()
    with scene.ledger.bound(ALL, LONG):
        scene.restart().wait_stage("handlers", "started")
        wait_for("the script has moved", lambda: row(scene.instance, "test.script.1")["generation"] == 2)
        scene.interrupt()
        breathe(0.3)
        for name in WARM:
            assert row(scene.instance, name)["generation"] == 1
        (scene.first / "finish").touch()
        scene.ended(2, "done")
    scene.prove({1, 2})


@marked
def test_in_the_hook_after(scene: Scene) -> None:
    """It runs on, and not again."""
    scene.gated_hook("after", 2)
    scene.start()
    scene.restart().wait_stage("after", "started")
    wait_for("the hook runs", (scene.project.root / "hook").exists)
    scene.interrupt()
    scene.gate.touch()
    scene.ended(2, "done")
    assert scene.hooks() == 1
    scene.prove({1, 2})


@marked
def test_in_the_grace_period(scene: Scene) -> None:
    scene.configure(grace=6.0)
    scene.start()
    scene.restart().wait_stage("grace", "started")
    scene.interrupt()
    scene.ended(2, "done")
    scene.prove({1, 2})


@marked
def test_in_the_grace_period_that_goes_on_to_find_a_crash(scene: Scene) -> None:
    scene.configure(grace=60.0)
    scene.start()
    scene.restart().wait_stage("grace", "started")
    scene.interrupt()
    breathe(0.3)
    with scene.ledger.bound(ALL, LONG):
        os.kill(scene.instance.generation(2)["pid"], signal.SIGKILL)
        scene.ended(1, "rolled-back", error="crashed within the grace period")
    scene.prove({1, 2})


@marked
def test_in_the_grace_period_with_the_new_generation(scene: Scene) -> None:
    scene.configure(grace=60.0)
    scene.start()
    scene.restart().wait_stage("grace", "started")
    victims = [scene.instance.generation(2)["pid"], *scene.instance.workers(2)]

    def kill_all() -> None:
        for pid in victims:
            os.kill(pid, signal.SIGKILL)

    with scene.ledger.bound(ALL, LONG):
        scene.interrupt(kill_all)
        scene.ended(1, "rolled-back", error="generation 2 has died as well")
    scene.prove({1, 2}, lost=True)


@marked
def test_in_the_grace_period_with_the_old_generation(scene: Scene) -> None:
    scene.configure(grace=5.0)
    scene.start()
    scene.restart().wait_stage("grace", "started")
    victims = [scene.instance.generation(1)["pid"], *scene.instance.workers(1)]

    def kill_all() -> None:
        for pid in victims:
            os.kill(pid, signal.SIGKILL)

    scene.interrupt(kill_all)
    scene.ended(2, "done")
    scene.prove({1, 2}, lost=True)


@marked
def test_on_the_way_back_after_the_switch(scene: Scene) -> None:
    """The new code finishes its work before it gives its names back."""
    scene.configure(grace=60.0)
    scene.start()
    second = scene.project.deploy("second")
    scene.misbehave(second, "busy")
    with scene.ledger.bound(ALL, LONG):
        handover = scene.restart()
        handover.wait_stage("grace", "started")
        scene.instance.handover(path="/v1/rollback")
        handover.wait_stage("rollback", "started")
        scene.interrupt()
        (second / "finish").touch()
        scene.ended(1, "rolled-back", error="aborted by `instar rollback`")
    scene.prove({1, 2})


@marked
def test_in_the_drain(scene: Scene) -> None:
    scene.start()
    scene.restart().wait_stage("drain", "started")
    scene.interrupt()
    scene.ended(2, "done")
    scene.prove({1, 2})


@marked
def test_in_the_wait_for_a_drain(scene: Scene) -> None:
    """Two restarts: the first goes on, the second had not begun."""
    scene.start()
    scene.restart().wait_stage("drain", "started")
    scene.restart().wait_stage("wait", "started")
    scene.interrupt()
    scene.alone(2)
    outcomes = [entry["outcome"] for entry in scene.instance.control.get("/v1/history")["entries"]]
    assert sorted(outcomes) == ["done", "done", "rolled-back"]
    scene.prove({1, 2})


@marked
def test_with_a_kept_generation(scene: Scene) -> None:
    """It is kept on, and the way back is still a switch; which is interrupted as well."""
    scene.start(light())
    assert scene.restart(keep_old=120.0).result()["outcome"] == "done"
    scene.interrupt()
    assert scene.instance.generation(1)["state"] == "kept"
    with scene.ledger.bound(ALL, LONG):
        back = scene.instance.handover(path="/v1/rollback")
        back.wait_stage("cut-over")
        scene.interrupt()
        scene.alone(1)
    outcomes = [(entry["kind"], entry["outcome"]) for entry in scene.instance.control.get("/v1/history")["entries"]]
    assert outcomes == [("boot", "done"), ("restart", "done"), ("rollback", "done")]
    scene.prove({1, 2})


@marked
def test_of_handlers_only(scene: Scene) -> None:
    scene.misbehave(scene.first, "busy")
    scene.start()
    with scene.ledger.bound(ALL, LONG):
        scene.restart(parts=["handlers"]).wait_stage("handlers", "started")
        wait_for("the script has moved", lambda: row(scene.instance, "test.script.1")["generation"] == 2)
        scene.interrupt()
        (scene.first / "finish").touch()

        def moved() -> bool:
            return all(row(scene.instance, name)["generation"] == 2 for name in NAMES)

        wait_for("all names moved", moved, 30.0)
    all_active(scene.instance, NAMES)
    results = scene.instance.control.get("/v1/history")["entries"]
    wait_for("the result", lambda: len(scene.instance.control.get("/v1/history")["entries"]) == 2)
    results = scene.instance.control.get("/v1/history")["entries"]
    assert [entry["outcome"] for entry in results] == ["done", "done"]
    assert scene.instance.live()["number"] == 1
    assert scene.instance.command("restart").code == 0
    scene.alone(3)
    scene.prove({1, 3})
