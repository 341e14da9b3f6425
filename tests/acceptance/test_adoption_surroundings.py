"""What a killed supervisor leaves besides TCP sockets: every kind of address, services, another user, other servers."""

from __future__ import annotations

import os
import pwd
import signal
from pathlib import Path
from typing import Any

import pytest
import trustme
from harness.engines import ENGINES, Clients, Engine, http1, light
from harness.instance import Instance
from harness.probe import ask
from harness.processes import alive
from harness.project import Project, free_port
from harness.promise import breathe, check
from harness.waiting import wait_for
from test_surroundings import fetch, interpreter_for

from load.process import LoadProcess
from load.purity import Switch
from load.target import Target

long = [pytest.mark.long, pytest.mark.timeout(240)]


def kill_and_adopt(instance: Instance) -> None:
    """The same processes serve."""
    before = instance.live()["pid"], set(instance.workers())
    instance.kill_supervisor()
    breathe(0.2)
    instance.start()
    assert (instance.live()["pid"], set(instance.workers())) == before


def under_load(instance: Instance, target: Target, clients: Clients) -> None:
    """Adopted when quiet and in the grace period, with a restart after each; nothing is lost."""
    project = instance.project
    load = LoadProcess(project.root, target, clients, keep_alive=project.config["web"]["keep_alive"])
    switches: list[Switch] = []
    with load:
        breathe(0.5)
        kill_and_adopt(instance)
        breathe(0.3)
        project.deploy("second")
        switches.append(instance.handover().switch())
        breathe(0.3)
        project.deploy("third")
        interrupted = instance.handover()
        switched = interrupted.wait_stage("cut-over")
        instance.kill_supervisor()
        breathe(0.2)
        instance.start()
        instance.settled(3, 60.0)
        switches.append(Switch(2, 3, interrupted.asked, switched))
        breathe(0.3)
        report = load.stop()
    check(report, 1, switches, clients)
    assert instance.command("restart").code == 0
    instance.settled(4)


@pytest.mark.parametrize("engine", [pytest.param(engine, marks=long, id=str(engine)) for engine in ENGINES])
def test_every_engine(project: Project, instance: Instance, engine: Engine) -> None:
    engine.configure(project)
    instance.start()
    under_load(instance, project.target, engine.clients(project))


@pytest.mark.long
@pytest.mark.timeout(240)
def test_unix_sockets(project: Project, instance: Instance) -> None:
    path = project.root / "app.sock"
    project.config["web"]["bind"] = [f"unix:{path}"]
    instance.start()
    under_load(instance, Target(unix=str(path)), http1(project))


@pytest.mark.long
@pytest.mark.timeout(240)
def test_shared_sockets(project: Project, instance: Instance) -> None:
    project.config["web"]["steering"] = "shared"
    instance.start()
    assert instance.status()["web"]["binds"][0]["mode"] == "shared"
    clients = light()
    load = LoadProcess(project.root, project.target, clients, keep_alive=20.0)
    with load:
        breathe(0.5)
        kill_and_adopt(instance)
        project.deploy("second")
        assert instance.command("restart").code == 0
        project.deploy("third")
        instance.handover().wait_stage("cut-over")
        instance.kill_supervisor()
        instance.start()
        instance.settled(3, 60.0)
        assert {ask(project.port) for _ in range(20)} == {3}
        report = load.stop()
    assert not report.failures, report.table()
    assert instance.command("rollback").code == 0


@pytest.mark.long
@pytest.mark.timeout(240)
def test_shared_sockets_in_the_boot(project: Project, instance: Instance) -> None:
    """The old generation goes on taking what comes."""
    project.config["web"]["steering"] = "shared"
    instance.start()
    gate = project.root / "gate"
    project.deploy("second", "import-gate", gate=str(gate))
    instance.handover().wait_stage("boot", "started")
    wait_for("the second zygote", lambda: instance.generation(2)["pid"])
    instance.kill_supervisor()
    instance.start()
    instance.settled(1)
    assert {ask(project.port) for _ in range(20)} == {1}


@pytest.mark.long
@pytest.mark.timeout(240)
def test_tls_and_http2(project: Project, instance: Instance) -> None:
    engine = ENGINES[1]
    engine.configure(project)
    authority = trustme.CA()
    certificate = authority.issue_cert("127.0.0.1")
    authority.cert_pem.write_to_path(str(project.root / "ca.pem"))
    certificate.private_key_pem.write_to_path(str(project.root / "key.pem"))
    certificate.cert_chain_pems[0].write_to_path(str(project.root / "cert.pem"))
    project.config["web"]["tls_cert"] = str(project.root / "cert.pem")
    project.config["web"]["tls_key"] = str(project.root / "key.pem")
    instance.start()
    under_load(instance, Target(port=project.port, ca=str(project.root / "ca.pem")), engine.clients(project))


def test_services_several_addresses_and_many_sockets(project: Project, instance: Instance) -> None:
    """More sockets than one message carries (SCM_MAX_FD); services go on, and end when they are told to."""
    other, path = free_port(), project.root / "app.sock"
    project.config["web"]["bind"] += [f"127.0.0.1:{other}", f"unix:{path}"]
    project.config["web"]["max_workers"] = 150
    command = ["/bin/sh", "-c", f"echo up >> {project.root}/$INSTAR_SERVICE; exec sleep 600"]
    project.config["services.mailer"] = {"command": command, "backoff": 0.1}
    project.config["services.cron"] = {"command": command, "handover": "keep", "restart": "never"}
    instance.start()

    def pids() -> dict[str, Any]:
        return {item["name"]: item["pid"] for item in instance.status()["services"]}

    first = wait_for("services", lambda: pids() if len(pids()) == 2 and all(pids().values()) else None)
    kill_and_adopt(instance)
    assert pids() == first
    assert (ask(project.port), ask(other)) == (1, 1)
    assert instance.command("restart").code == 0
    second = wait_for("services", lambda: pids() if all(pids().values()) else None)
    assert second["cron"] == first["cron"] and second["mailer"] != first["mailer"]
    # An adopted one that ends is started again, as any other.
    kill_and_adopt(instance)
    os.kill(second["mailer"], signal.SIGKILL)
    third = wait_for("a new mailer", lambda: pids() if pids()["mailer"] not in (None, second["mailer"]) else None)
    assert (project.root / "mailer").read_text() == "up\n" * 3
    assert (project.root / "cron").read_text() == "up\n"
    assert (ask(project.port), ask(other)) == (2, 2)
    assert instance.command("stop").code == 0
    wait_for("no service is left", lambda: not any(map(alive, third.values())))
    assert not path.exists()


@pytest.mark.long
@pytest.mark.timeout(120)
def test_addresses_of_an_interrupted_restart(project: Project, instance: Instance) -> None:
    """One that it added and one that it dropped: as the rule says who serves."""
    instance.start()
    first, other = project.config["web"]["bind"][0], free_port()
    for stage, adopted, binds in (("boot", 1, [first]), ("grace", 3, [f"127.0.0.1:{other}"])):
        project.config["web"]["bind"] = [f"127.0.0.1:{other}"]
        project.config["restart"]["grace"] = 4.0
        project.write()
        gate = project.root / f"gate-{stage}"
        project.deploy(stage, *(["import-gate"] if stage == "boot" else []), gate=str(gate))
        instance.handover().wait_stage(stage, "started")
        instance.kill_supervisor()
        instance.start()
        instance.settled(adopted, 60.0)
        wait_for("the addresses", lambda want=binds: [i["bind"] for i in instance.status()["web"]["binds"]] == want)
    assert ask(other) == 3


@pytest.mark.long
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can change the user: run the tests as root")
def test_of_another_user(instance: Instance, project: Project, folder: Path) -> None:
    nobody = pwd.getpwnam("nobody")
    project.config["app"] |= {"user": "nobody", "target": "whoami:app"}
    project.config["health"]["path"] = "/"
    (folder / "current" / "whoami.py").write_text(
        "import os\ndef app(environ, start):\n    start('200 OK', [])\n    return [f'{os.getuid()}'.encode()]\n"
    )
    folder.chmod(0o755)
    project.config["app"] |= interpreter_for(nobody)
    instance.start()
    kill_and_adopt(instance)
    assert fetch(project.port, "/") == str(nobody.pw_uid)
    assert instance.command("restart").code == 0
    instance.settled(2)
    for path in (instance.state_dir / "control").iterdir():
        assert path.stat().st_uid == 0 and not path.stat().st_mode & 0o077, path


@pytest.mark.long
def test_a_lazy_generation(instance: Instance, project: Project, folder: Path) -> None:
    """Its zygote has replaced its own image since the record was written."""
    (folder / "current" / "threaded.py").write_text(
        "import threading, time\n"
        "threading.Thread(target=time.sleep, args=(3600,), name='poller', daemon=True).start()\n"
        "def app(environ, start):\n"
        "    start('200 OK', [])\n"
        "    return [b'fine']\n"
    )
    project.config["app"]["target"] = "threaded:app"
    project.config["health"]["path"] = "/"
    instance.start()
    assert instance.live()["lazy"] is True
    kill_and_adopt(instance)
    assert instance.live()["lazy"] is True and fetch(project.port, "/") == "fine"
    assert instance.command("restart").code == 0


@pytest.mark.long
def test_a_command_as_the_engine(instance: Instance, project: Project, folder: Path) -> None:
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
    kill_and_adopt(instance)
    assert fetch(project.port, "/") == "ok"
    assert instance.command("restart").code == 0
    assert fetch(project.port, "/") == "ok"


def test_two_supervisors_can_not_run(project: Project, instance: Instance) -> None:
    instance.start()
    kill_and_adopt(instance)
    said = instance.command("run")
    assert said.code != 0 and "already" in said.err, said
    instance.settled(1)


def test_a_zygote_that_is_stopped_is_left_alone(project: Project, instance: Instance) -> None:
    """Its workers serve: whoever ended it because the machine is slow would end the service."""
    instance.start()
    zygote = instance.live()["pid"]
    os.kill(zygote, signal.SIGSTOP)
    instance.kill_supervisor()
    said = instance.command("run", limit=60.0)
    assert said.code == 1 and f"its zygote (pid {zygote}) doesn't answer" in said.err, said
    assert ask(project.port) == 1
    os.kill(zygote, signal.SIGCONT)
    instance.start()
    assert instance.live()["pid"] == zygote


@pytest.mark.long
def test_workers_without_zygote_finish_what_they_do(project: Project, instance: Instance) -> None:
    """Nobody can adopt them: a fresh generation is booted, and they are ended."""
    instance.start()
    zygote, workers = instance.live()["pid"], instance.workers()
    instance.kill_supervisor()
    os.kill(zygote, signal.SIGKILL)
    assert ask(project.port) == 1
    instance.start()
    wait_for("the old workers have gone", lambda: not any(map(alive, workers)))
    assert ask(project.port) == 2
    instance.settled(2)
