"""SIGKILL for the supervisor: nothing is lost, and the next supervisor goes on where it was killed."""

from __future__ import annotations

from typing import Any

from harness.instance import Instance
from harness.processes import alive
from harness.project import Project
from harness.promise import breathe, check

from load.process import LoadProcess
from load.purity import Switch

CLIENTS: dict[str, dict[str, Any]] = {
    "new": {"count": 3},
    "busy": {"count": 3},
    "idle": {"count": 4, "pause": 0.4},
    "sse": {"count": 1},
    "websocket": {"count": 1},
}


def test_a_quiet_generation_is_adopted_three_times_under_load(project: Project, instance: Instance) -> None:
    """The same processes, no failed request, and a restart works as ever."""
    instance.start()
    zygote, workers = instance.live()["pid"], set(instance.workers())
    load = LoadProcess(project.root, project.target, CLIENTS, keep_alive=project.config["web"]["keep_alive"])
    switches: list[Switch] = []
    with load:
        for _ in range(3):
            breathe(0.5)
            instance.kill_supervisor()
            breathe(0.3)
            instance.start()
            assert (instance.live()["pid"], set(instance.workers())) == (zygote, workers)
        breathe(0.3)
        project.deploy("second")
        switches.append(instance.handover().switch())
        breathe(0.3)
        report = load.stop()
    check(report, 1, switches, CLIENTS)
    assert not alive(zygote)
    instance.settled(2)
    assert instance.command("rollback").code == 0
    instance.settled(3)
