"""What happens to single workers: recycled without loss, replaced when they die, hang or take too long."""

from __future__ import annotations

import os
import signal
import threading
import time
import urllib.request
from pathlib import Path

import pytest
from harness.instance import Instance
from harness.project import Project
from harness.waiting import wait_for

from load.process import LoadProcess

CLIENTS = {"new": {"count": 2}, "busy": {"count": 2}, "idle": {"count": 4}}


def restarts(instance: Instance) -> int:
    return sum(worker["restarts"] for worker in instance.live()["workers"])


def log_has(instance: Instance, text: str) -> bool:
    return text in instance.command("logs", "-n", "300").out


@pytest.mark.parametrize(
    ("engine", "target"),
    [("granian", "wsgi"), ("granian", "asgi"), ("uvicorn", "asgi"), ("gunicorn", "wsgi")],
)
def test_recycling_by_requests_loses_nothing(
    instance: Instance, project: Project, folder: Path, engine: str, target: str
) -> None:
    project.config["app"]["target"] = f"apps.{target}:app"
    project.config["web"] |= {"engine": engine, "max_requests": 150, "max_requests_jitter": 50}
    instance.start()
    first = set(instance.workers())
    load = LoadProcess(folder / "load", instance.load_target(), CLIENTS, keep_alive=20.0).start()
    try:
        wait_for("every worker was replaced twice", lambda: _recycled(instance) >= 4, 60)
    finally:
        report = load.stop()
    assert not report.failures, report.table()
    wait_for("the first workers have left", lambda: not first & set(instance.workers()), 40)
    wait_for("one process for each worker", lambda: len(instance.workers()) == 2, 40)


def _recycled(instance: Instance) -> int:
    return instance.command("logs", "-n", "500").out.count("recycling worker")


def test_a_worker_over_its_memory_is_recycled(instance: Instance, project: Project) -> None:
    project.config["web"] |= {"max_memory": "1K", "workers": 1}
    instance.start()
    pid = instance.workers()[0]
    wait_for("it was replaced", lambda: pid not in instance.workers(), 30)
    assert log_has(instance, "its private memory reached")


def test_a_killed_worker_is_replaced_at_once_and_then_with_growing_delay(instance: Instance) -> None:
    instance.start()
    for expected in (1, 2):
        victim = instance.live()["workers"][0]["pid"]
        os.kill(victim, signal.SIGKILL)
        wait_for("a replacement", lambda n=expected: restarts(instance) == n and len(instance.workers()) == 2)
    assert log_has(instance, "its replacement starts in 0.5 s")
    instance.settled(1)


def test_a_stopped_worker_is_killed_and_replaced(instance: Instance, project: Project) -> None:
    project.config["web"]["heartbeat_timeout"] = 1.0
    instance.start()
    victim = instance.workers()[0]
    os.kill(victim, signal.SIGSTOP)
    wait_for("a replacement", lambda: victim not in instance.workers() and len(instance.workers()) == 2, 20)
    assert log_has(instance, "gave no sign of life")


@pytest.mark.parametrize("target", [pytest.param("wsgi", marks=pytest.mark.long), "asgi"])
def test_a_request_that_takes_too_long_has_its_worker_replaced(
    instance: Instance, project: Project, target: str
) -> None:
    project.config["app"]["target"] = f"apps.{target}:app"
    project.config["web"] |= {"request_timeout": 1.0, "workers": 1, "threads": 2 if target == "wsgi" else 1}
    instance.start()
    [pid] = instance.workers()
    url = f"http://127.0.0.1:{project.port}"

    def ask_for_ever() -> None:
        with pytest.raises(OSError):
            urllib.request.urlopen(f"{url}/gate?n=never", timeout=30)

    thread = threading.Thread(target=ask_for_ever)
    thread.start()
    wait_for("a replacement", lambda: pid not in instance.workers(), 30)
    # Meanwhile, and afterwards, others are served.
    assert urllib.request.urlopen(f"{url}/?n=x", timeout=5).status == 200
    (project.gates / "never").touch()
    thread.join(30)
    assert log_has(instance, "a request took longer than 1 s")


def test_a_full_worker_gets_no_new_connections(instance: Instance, project: Project) -> None:
    project.config["app"]["target"] = "apps.wsgi:app"
    project.config["web"] |= {"threads": 1, "workers": 2}
    instance.start()
    url = f"http://127.0.0.1:{project.port}"
    blocked = threading.Thread(target=lambda: urllib.request.urlopen(f"{url}/gate?n=wait", timeout=60).read())
    blocked.start()
    wait_for("one worker is busy", lambda: any(w["in_flight"] for w in instance.live()["workers"]))
    time.sleep(1.5)  # longer than a worker may be full before it is left out
    began = time.monotonic()
    for number in range(20):
        urllib.request.urlopen(f"{url}/?n=x{number}", timeout=5).read()
    assert time.monotonic() - began < 5
    (project.gates / "wait").touch()
    blocked.join(30)


def test_sighup_restarts(instance: Instance) -> None:
    instance.start()
    os.kill(instance.pid, signal.SIGHUP)
    wait_for("generation 2", lambda: instance.status()["web"]["live_generation"] == 2)
    instance.settled(2)
