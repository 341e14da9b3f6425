"""The main promise: restarts under load, by engine and client class, lose nothing."""

from __future__ import annotations

import pytest
from harness.engines import ENGINES, Engine
from harness.instance import Instance
from harness.project import Project
from harness.promise import breathe, check

from load.process import LoadProcess
from load.purity import Switch


@pytest.mark.parametrize("restarts", [2, pytest.param(10, marks=[pytest.mark.long, pytest.mark.timeout(900)])])
@pytest.mark.parametrize("engine", ENGINES, ids=str)
def test_restarts_under_load_lose_nothing(project: Project, instance: Instance, engine: Engine, restarts: int) -> None:
    engine.configure(project)
    instance.start()
    clients = engine.clients(project)
    load = LoadProcess(project.root, project.target, clients, keep_alive=project.config["web"]["keep_alive"])
    switches: list[Switch] = []
    with load:
        for number in range(restarts):
            breathe()
            project.deploy(f"release{number}")
            switches.append(instance.handover().switch())
        breathe()
        report = load.stop()
    check(report, 1, switches, clients)
    assert instance.live()["number"] == restarts + 1
    instance.settled(restarts + 1)
