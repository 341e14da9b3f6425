"""Local jobs outlive whatever is restarted, killed or stopped around them."""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path

import pytest
from harness.handlers import rows
from harness.instance import Instance
from harness.processes import alive
from harness.project import Project
from harness.waiting import wait_for

sys.path.insert(0, str(Path(__file__).parents[1] / "integration/runners"))

from slurm_node import slurm

from instar.errors import ExitCode


@pytest.fixture
def with_jobs(project: Project) -> Project:
    project.config["jobs"] = {"pool": "jobs", "folder": str(project.root / "jobs")}
    project.config["jobs"]["store"] = f"sqlite:///{project.root / 'jobs.sqlite3'}"
    project.config["handlers.jobs"] = {"count": 2}
    return project


def submit(instance: Instance, script: str, *options: str) -> int:
    said = instance.command("jobs", "submit", "--json", *options, "--", "sh", "-c", script)
    assert said.code == 0, said
    return int(said.json["id"])


def show(instance: Instance, job: int) -> dict:
    return instance.command("jobs", "show", str(job), "--json").json


def handler_of(instance: Instance, job: int) -> int:
    """Pid of the handler that looks after a job."""
    return int(rows(instance)[show(instance, job)["handler"]]["pid"])


def launcher(instance: Instance) -> int:
    """Pid of the supervisor's launcher."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                argv = (entry / "cmdline").read_bytes().decode().split("\0")
                name = (entry / "comm").read_text().strip()
            except OSError:
                continue
            if name == "instar-launcher" and str(instance.state_dir / "app/launcher.sock") in argv:
                return int(entry.name)
    return 0


def begun(project: Project, name: str) -> Path:
    """A job's script makes this file, with its pid in it, when it begins."""
    return project.root / name


def waits(project: Project, name: str, code: int) -> str:
    """A script that begins, waits for a file, and ends with an exit code of its own."""
    root = project.root
    return (
        f"echo run >>{root}/{name}.runs; echo first; echo $$ >{root}/{name}; "
        f"while [ ! -e {root}/{name}.go ]; do sleep 0.02; done; echo last; exit {code}"
    )


def running(project: Project, name: str) -> int:
    path = project.root / name
    return int(wait_for(f"job {name} runs", lambda: path.exists() and path.read_text().strip()))


def ended(instance: Instance, project: Project, job: int, name: str, code: int) -> None:
    """Let it end, and see that all is as it should be."""
    (project.root / f"{name}.go").touch()
    said = instance.command("jobs", "wait", str(job), "--json", limit=40.0)
    found = show(instance, job)
    assert found["exit_code"] == code, (found, said)
    assert found["attempt"] == 1
    assert (project.root / f"{name}.runs").read_text() == "run\n"
    assert instance.command("jobs", "logs", str(job)).out == "first\nlast\n"


def test_a_job_outlives_restarts_and_the_launcher(with_jobs: Project, instance: Instance) -> None:
    instance.start()
    job = submit(instance, waits(with_jobs, "one", 7))
    pid = running(with_jobs, "one")
    for _ in range(2):
        assert instance.command("restart").code == 0
    first = wait_for("the launcher", lambda: launcher(instance))
    os.kill(first, signal.SIGKILL)
    second = wait_for("another launcher", lambda: launcher(instance) not in (0, first) and launcher(instance))
    assert alive(pid)
    other = submit(instance, waits(with_jobs, "two", 0))
    running(with_jobs, "two")
    ended(instance, with_jobs, job, "one", 7)
    ended(instance, with_jobs, other, "two", 0)
    assert alive(second)


def test_a_job_outlives_a_stop_and_the_next_start_records_its_end(with_jobs: Project, instance: Instance) -> None:
    instance.start()
    job = submit(instance, waits(with_jobs, "one", 3))
    pid = running(with_jobs, "one")
    wait_for("the launcher", lambda: launcher(instance))
    assert instance.command("stop").code == 0
    assert alive(pid)
    assert not launcher(instance)
    (with_jobs.root / "one.go").touch()
    wait_for("its end", lambda: not alive(pid))
    instance.start()
    ended(instance, with_jobs, job, "one", 3)


def test_a_job_outlives_a_killed_supervisor(with_jobs: Project, instance: Instance) -> None:
    instance.start()
    job = submit(instance, waits(with_jobs, "one", 5))
    pid = running(with_jobs, "one")
    old = wait_for("the launcher", lambda: launcher(instance))
    zygote = instance.live()["pid"]
    instance.kill_supervisor()
    assert alive(pid)
    # Handlers work on, and can have jobs started.
    other = submit(instance, waits(with_jobs, "two", 0))
    running(with_jobs, "two")
    os.kill(zygote, signal.SIGTERM)
    wait_for("the end of the generation", lambda: not alive(zygote))
    assert alive(old)
    instance.start()
    wait_for("only the new launcher", lambda: not alive(old) and launcher(instance))
    ended(instance, with_jobs, job, "one", 5)
    ended(instance, with_jobs, other, "two", 0)


def test_a_function_outlives_its_handler_where_programs_run(with_jobs: Project, instance: Instance) -> None:
    instance.start()
    arguments = json.dumps([str(with_jobs.root / "one")])
    call = ["--call", "apps.calls:until", "--args", arguments, "--destination", "local"]
    job = int(instance.command("jobs", "submit", "--json", *call).json["id"])
    pid = running(with_jobs, "one")
    assert instance.command("restart").code == 0
    wait_for("its progress", lambda: show(instance, job)["progress"] == {"done": 1, "total": 2})
    assert alive(pid)
    ended(instance, with_jobs, job, "one", 0)
    assert show(instance, job)["result"] == {"pid": pid}


@pytest.mark.long
def test_a_job_in_slurm_outlives_restarts(with_jobs: Project, instance: Instance) -> None:
    with slurm() as node:
        with_jobs.config["jobs.runners.slurm"] = {
            "options": {"conf": str(node.conf), "poll_min": 0.2, "poll_max": 0.5, "grace": 1.0}
        }
        instance.start()
        job = submit(instance, waits(with_jobs, "one", 7), "--destination", "slurm")
        other = submit(instance, waits(with_jobs, "two", 0), "--destination", "slurm")
        running(with_jobs, "one")
        pid = running(with_jobs, "two")
        for _ in range(2):
            assert instance.command("restart").code == 0
        # Asked of handlers that haven't started it.
        assert instance.command("jobs", "cancel", str(other)).code == 0
        assert instance.command("jobs", "wait", str(other), limit=40.0).code == ExitCode.JOB_FAILED
        assert show(instance, other)["state"] == "cancelled"
        wait_for("its end", lambda: not alive(pid))
        os.kill(handler_of(instance, job), signal.SIGKILL)
        ended(instance, with_jobs, job, "one", 7)
        instance.command("stop")


def test_without_jobs_there_is_no_launcher(project: Project, instance: Instance) -> None:
    instance.start()
    assert instance.command("restart").code == 0
    assert launcher(instance) == 0
    assert "jobs" not in json.dumps(project.config)
