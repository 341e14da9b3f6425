"""What surrounds a handover: hooks, services, binds that come and go, users, lazy loading, shared sockets."""

from __future__ import annotations

import os
import pwd
import signal
import urllib.request
from pathlib import Path

import pytest
from harness.instance import Instance
from harness.processes import alive
from harness.project import Project, free_port
from harness.users import interpreter_for
from harness.waiting import wait_for

from load.process import LoadProcess

CLIENTS = {"new": {"count": 2}, "busy": {"count": 2}, "idle": {"count": 4}}


def fetch(port: int, path: str = "/?n=x", host: str = "127.0.0.1") -> str:
    with urllib.request.urlopen(f"http://{host}:{port}{path}", timeout=10) as answer:
        return str(answer.read().decode())


def note(path: Path, text: str) -> list[str]:
    """A command that appends a line to a file."""
    return ["{python}", "-c", f"open({str(path)!r}, 'a').write({text!r} + '\\n')"]


def test_hooks_run_in_order_and_a_failing_one_rolls_back(instance: Instance, project: Project, folder: Path) -> None:
    trace = folder / "trace"
    restart = project.config["restart"]
    restart |= {
        "before": [note(trace, "before")],
        "after": [note(trace, "after")],
        "on_rollback": [note(trace, "back")],
    }
    instance.start()
    assert trace.read_text().split() == ["before", "after"]
    assert instance.command("restart").code == 0
    assert trace.read_text().split() == ["before", "after"] * 2

    restart["after"] = [["{python}", "-c", "raise SystemExit('no migration')"]]
    project.write()
    said = instance.command("restart", "--json")
    assert said.code == 3
    assert "hook" in said.json["error"] and "exited with status 1" in said.json["error"]
    assert trace.read_text().split() == ["before", "after"] * 2 + ["before", "back"]
    instance.settled(2)

    restart["before"] = [["{python}", "-c", "raise SystemExit(9)"]]
    project.write()
    assert instance.command("restart").code == 3
    instance.settled(2)


def test_services_run_restart_and_stop(instance: Instance, project: Project) -> None:
    command = ["{python}", "-c", "import time; print('service up', flush=True); time.sleep(600)"]
    project.config["services.mailer"] = {"command": command, "backoff": 0.1}
    project.config["services.cron"] = {"command": command, "handover": "keep", "restart": "never"}
    project.config["services.feed"] = {"command": command, "handover": "overlap"}
    instance.start()

    def pids() -> dict[str, int | None]:
        return {service["name"]: service["pid"] for service in instance.status()["services"]}

    first = wait_for("three services", lambda: pids() if all(pids().values()) and len(pids()) == 3 else None)
    os.kill(first["mailer"], signal.SIGKILL)
    second = wait_for("a new mailer", lambda: pids() if pids()["mailer"] not in (None, first["mailer"]) else None)
    assert instance.command("restart").code == 0
    third = wait_for("all run", lambda: pids() if all(pids().values()) else None)
    assert third["cron"] == first["cron"]
    assert third["mailer"] != second["mailer"] and third["feed"] != first["feed"]
    wait_for("the old ones have ended", lambda: not any(map(alive, (second["mailer"], first["feed"]))))
    del project.config["services.mailer"]
    project.write()
    assert instance.command("restart").code == 0
    assert set(pids()) == {"cron", "feed"}
    assert "service up" in instance.command("logs", "-n", "200").out


def test_binds_come_and_go_without_a_stop(instance: Instance, project: Project, folder: Path) -> None:
    instance.start()
    other, path = free_port(), folder / "app.sock"
    load = LoadProcess(folder / "load", instance.load_target(), CLIENTS, keep_alive=20.0).start()
    project.config["web"]["bind"] = [f"127.0.0.1:{project.port}", f"127.0.0.1:{other}", f"unix:{path}"]
    project.write()
    assert instance.command("restart").code == 0
    assert fetch(project.port) and fetch(other) and path.is_socket()
    project.config["web"]["bind"] = [f"127.0.0.1:{project.port}"]
    project.write()
    assert instance.command("restart").code == 0
    report = load.stop()
    assert not report.failures, report.table()
    assert not path.exists()
    with pytest.raises(OSError):
        fetch(other)


def test_an_address_that_is_taken_refuses_the_restart(instance: Instance, project: Project) -> None:
    instance.start()
    project.config["web"]["bind"].append("192.0.2.1:80")
    project.write()
    said = instance.command("restart")
    assert said.code != 0 and "192.0.2.1" in said.err and "Traceback" not in said.err
    instance.settled(1)


def test_more_and_fewer_workers(instance: Instance, project: Project) -> None:
    instance.start()
    for generation, workers in ((2, 5), (3, 1)):
        project.config["web"]["workers"] = workers
        project.write()
        assert instance.command("restart").code == 0
        assert len(instance.workers()) == workers
        instance.settled(generation)
        assert all(fetch(project.port) for _ in range(20))


def test_the_name_can_not_change_in_a_restart(instance: Instance, project: Project) -> None:
    instance.start()
    project.config["app"]["user"] = "nobody"
    project.write()
    said = instance.command("restart")
    assert said.code == 2 and "app.user" in said.err
    instance.settled(1)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can change the user: run the tests as root")
def test_application_code_runs_as_the_configured_user(instance: Instance, project: Project, folder: Path) -> None:
    nobody = pwd.getpwnam("nobody")
    project.config["app"] |= {"user": "nobody", "target": "whoami:app"}
    project.config["health"]["path"] = "/"
    (folder / "current" / "whoami.py").write_text(
        "import os\n"
        "def app(environ, start):\n"
        "    start('200 OK', [])\n"
        "    return [f'{os.getuid()} {os.getgid()} {os.getgroups()}'.encode()]\n"
    )
    folder.chmod(0o755)
    project.config["app"] |= interpreter_for(nobody)
    instance.start()
    uid, gid, groups = fetch(project.port, "/").split(" ", 2)
    assert (int(uid), int(gid)) == (nobody.pw_uid, nobody.pw_gid)
    assert "0" not in groups.strip("[]").split(", ")
    assert (instance.state_dir / "control").stat().st_mode & 0o777 == 0o700
    assert (instance.state_dir / "control").stat().st_uid == 0
    assert instance.command("restart").code == 0


def test_an_import_that_starts_a_thread_makes_the_generation_lazy(
    instance: Instance, project: Project, folder: Path
) -> None:
    for release in (folder / "current",):
        (release / "threaded.py").write_text(
            "import threading, time\n"
            "threading.Thread(target=time.sleep, args=(3600,), name='poller', daemon=True).start()\n"
            "def app(environ, start):\n"
            "    start('200 OK', [])\n"
            "    return [','.join(t.name for t in threading.enumerate()).encode()]\n"
        )
    project.config["app"]["target"] = "threaded:app"
    project.config["health"]["path"] = "/"
    instance.start()
    assert instance.live()["lazy"] is True
    assert any("poller" in text for text in instance.status()["notes"])
    # Each worker has imported the application itself: the thread runs there.
    assert "poller" in fetch(project.port, "/")


@pytest.mark.long
def test_shared_sockets_hand_over_without_loss(instance: Instance, project: Project, folder: Path) -> None:
    project.config["web"]["steering"] = "shared"
    instance.start()
    assert instance.status()["web"]["binds"][0]["mode"] == "shared"
    load = LoadProcess(folder / "load", instance.load_target(), CLIENTS, keep_alive=20.0).start()
    for generation in (2, 3):
        project.deploy(f"release {generation}")
        assert instance.command("restart").code == 0
        instance.settled(generation)
        assert f"release {generation}" in fetch(project.port)
    project.deploy("bad", "health-500")
    assert instance.command("restart").code == 3
    assert "release 3" in fetch(project.port)
    assert instance.command("rollback").code == 0
    assert "release 2" in fetch(project.port)
    report = load.stop()
    assert not report.failures, report.table()


def test_a_rollback_on_shared_sockets_within_the_grace_period(
    instance: Instance, project: Project, folder: Path
) -> None:
    project.config["web"]["steering"] = "shared"
    project.config["restart"]["grace"] = 20.0
    instance.start()
    project.deploy("second")
    handover = instance.handover()
    handover.wait_stage("cut-over")
    assert instance.command("rollback").code == 0
    assert handover.result()["outcome"] == "rolled-back"
    assert all("first" in fetch(project.port) for _ in range(20))


def test_a_command_serves_as_the_engine(instance: Instance, project: Project, folder: Path) -> None:
    (folder / "current" / "plain.py").write_text(
        "def app(environ, start):\n    start('200 OK', [('Content-Length', '2')])\n    return [b'ok']\n"
    )
    project.config["app"]["target"] = ""
    project.config["web"] |= {
        "engine": "command",
        "command": ["{python}", "-m", "gunicorn", "--bind", "fd://{fd}", "--workers", "1", "plain:app"],
        "workers": 1,
    }
    project.config["web"].pop("static")
    project.config["health"]["path"] = "/"
    instance.start()
    assert fetch(project.port, "/") == "ok"
    assert instance.command("restart").code == 0
    assert fetch(project.port, "/") == "ok"
