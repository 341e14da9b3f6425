"""`instar upgrade` under load: the same process in another version, and the old one whenever the new one is no good."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import pwd
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from harness.handlers import all_active, pool
from harness.instance import Instance
from harness.manager import Manager
from harness.probe import Connection, ask
from harness.processes import alive
from harness.project import Project
from harness.promise import breathe, check
from harness.versions import Site
from harness.waiting import wait_for

from load.process import LoadProcess

CLIENTS: dict[str, dict[str, Any]] = {
    "new": {"count": 3},
    "busy": {"count": 2},
    "idle": {"count": 4, "pause": 0.4},
    "sse": {"count": 1},
    "websocket": {"count": 1},
}
NAMES = ("test.jobs.1", "test.jobs.2")


def limit(trouble: str) -> list[str]:
    """How long a new version gets: what hangs is waited for that long, what is only slow on a busy machine isn't."""
    return ["--timeout", "20s" if "hangs" in trouble else "90s"]


@pytest.fixture
def site(project: Project, monkeypatch: pytest.MonkeyPatch) -> Site:
    # As where people install things.
    monkeypatch.delenv("PYTHONDONTWRITEBYTECODE", raising=False)
    return Site(project.root).install("1.0")


@contextmanager
def under_load(project: Project) -> Iterator[None]:
    """Nothing may fail meanwhile."""
    load = LoadProcess(project.root, project.target, CLIENTS, keep_alive=project.config["web"]["keep_alive"])
    with load:
        breathe(0.5)
        yield
        breathe(0.5)
        report = load.stop()
    check(report, 1, [], CLIENTS)


def family(instance: Instance) -> tuple[int, set[int]]:
    """Zygote and workers of the generation that serves."""
    return instance.live()["pid"], set(instance.workers())


def history(instance: Instance) -> dict[str, Any]:
    """The last entry of it."""
    entry: dict[str, Any] = instance.control.get("/v1/history")["entries"][-1]
    return entry


def end(instance: Instance) -> None:
    """Stop a supervisor that is no child of ours."""
    pid = instance.status()["pid"]
    os.kill(pid, signal.SIGTERM)
    wait_for("the end of the supervisor", lambda: not alive(pid), 20)


def test_the_same_process_in_the_installed_version(project: Project, instance: Instance, site: Site) -> None:
    """Installed in place: handlers and a job go on. Then a restart and a rollback as ever."""
    root = project.root
    project.config["jobs"] = {"pool": "jobs", "folder": str(root / "jobs"), "store": f"sqlite:///{root / 'jobs.db'}"}
    pool(project, "jobs", count=2)
    instance.start(program=[str(site.program)])
    pid, before = instance.pid, family(instance)
    all_active(instance, NAMES)
    handlers = holders(instance)
    script = f"echo run >>{root}/began; while [ ! -e {root}/go ]; do sleep 0.05; done; exit 23"
    job = str(instance.command("jobs", "submit", "--json", "--", "sh", "-c", script).json["id"])
    wait_for("the job runs", (root / "began").exists)
    with under_load(project):
        site.install("2.0")
        said = instance.command("upgrade", "--json")
        assert said.code == 0, said
        assert (said.json["outcome"], said.json["from_version"], said.json["version"]) == ("done", "1.0", "2.0")
        assert [stage["stage"] for stage in said.json["stages"]] == ["wait", "way back", "self-test", "start"]
        status = instance.status()
        assert (status["pid"], status["version"]) == (pid, "2.0")
        assert family(instance) == before
        assert holders(instance) == handlers
    assert (family(instance), holders(instance)) == (before, handlers)
    (root / "go").touch()
    instance.command("jobs", "wait", job, limit=40.0)
    found = instance.command("jobs", "show", job, "--json").json
    assert (found["state"], found["exit_code"], found["attempt"]) == ("error", 23, 1)
    assert history(instance)["outcome"] == "done"
    assert instance.pid == pid
    assert alive(pid)
    assert instance.command("restart").code == 0
    assert instance.live()["number"] == 2
    assert instance.command("rollback").code == 0


@pytest.mark.long
def test_again_and_again_by_signal(project: Project, instance: Instance, site: Site) -> None:
    instance.start(program=[str(site.program)])
    pid, before = instance.pid, family(instance)
    with under_load(project):
        for version in ("2.0", "3.0", "3.1"):
            site.install(version)
            os.kill(pid, signal.SIGUSR2)
            wait_for("the upgrade has begun", lambda: instance.status()["upgrade"]["running"])
            # Refused, in the log.
            os.kill(pid, signal.SIGUSR2)
            wait_for("the next version", lambda wanted=version: answers(instance) == wanted, 60)
    assert (instance.status()["pid"], family(instance)) == (pid, before)
    # No guardian and no self-test is left, not even as a zombie.
    instance.settled(1)
    assert Path(f"/proc/{pid}/task/{pid}/children").read_text().split() == [str(before[0])]


def holders(instance: Instance) -> dict[str, tuple[int, int]]:
    """Who has which name, and in which epoch."""
    return {row["name"]: (row["pid"], row["epoch"]) for row in instance.status()["handlers"]}


def answers(instance: Instance) -> str:
    """The version that answers, if one does."""
    try:
        return str(instance.status()["version"])
    except (OSError, AssertionError):
        return ""


@pytest.mark.long
def test_a_version_that_cannot_be_imported_changes_nothing(project: Project, instance: Instance, site: Site) -> None:
    instance.start(program=[str(site.program)])
    before = family(instance)
    site.install("2.0", "import")
    said = instance.command("upgrade")
    assert said.code == 3, said
    assert "the new version fails its self-test: ImportError: no such library; 1.0 runs on" in said.err
    assert instance.status()["version"] == "1.0"
    assert family(instance) == before
    # And the way is open again, in what was started late as well.
    site.install("2.1")
    assert instance.command("upgrade").code == 0
    assert instance.status()["version"] == "2.1"


@pytest.mark.long
@pytest.mark.parametrize(
    "trouble", ["early raises", "early exits", "early hangs", "adopted raises", "adopted exits", "adopted hangs"]
)
def test_a_version_that_fails_gives_way(project: Project, instance: Instance, site: Site, trouble: str) -> None:
    """The old version runs on in the same process, from its copy; nobody has noticed."""
    instance.start(program=[str(site.program)])
    pid, before = instance.pid, family(instance)
    with under_load(project):
        site.install("2.0", trouble)
        said = instance.command("upgrade", *limit(trouble), "--json")
    assert said.code == 3, said
    assert (said.json["outcome"], said.json["to_version"], said.json["version"]) == ("rolled-back", "2.0", "1.0")
    what = {"raises": "broken release", "exits": "ended with status 9", "hangs": "was not ready within 20 s"}
    assert what[trouble.split()[1]] in said.json["error"]
    status = instance.status()
    assert (status["pid"], status["version"]) == (pid, "1.0")
    assert family(instance) == before
    assert history(instance)["error"] == said.json["error"]
    # From there it goes on: a restart, and a version that is better.
    assert instance.command("restart").code == 0
    site.install("2.1")
    assert instance.command("upgrade").code == 0
    assert instance.status()["version"] == "2.1"
    instance.settled(2)


@pytest.mark.long
@pytest.mark.parametrize(
    "trouble", ["early leaves", "early segfaults", "adopted leaves", "adopted segfaults", "adopted hangs deaf"]
)
def test_a_version_that_dies_is_followed_by_the_guardian(
    project: Project, instance: Instance, site: Site, trouble: str
) -> None:
    """The pid can't stay; all else does."""
    instance.start(program=[str(site.program)])
    pid, before = instance.pid, family(instance)
    with under_load(project):
        site.install("2.0", trouble)
        said = instance.command("upgrade", *limit(trouble), "--json")
    assert said.code == 3, said
    assert said.json["version"] == "1.0"
    status = instance.status()
    assert status["version"] == "1.0"
    assert status["pid"] != pid
    assert not alive(pid)
    assert family(instance) == before
    assert instance.command("restart").code == 0
    site.install("2.1")
    assert instance.command("upgrade").code == 0
    end(instance)


@pytest.mark.long
def test_a_self_test_that_hangs(project: Project, instance: Instance, site: Site) -> None:
    """Nothing else may begin meanwhile, but a stop may."""
    instance.start(program=[str(site.program)])
    site.install("2.0", "hanging self-test")
    upgrade = instance.handover({"limit": 6.0}, "/v1/upgrade")
    upgrade.wait_stage("self-test", "started", 40)
    assert instance.status()["upgrade"]["running"]
    for verb in ("upgrade", "restart", "rollback"):
        said = instance.command(verb)
        assert said.code == 4, said
        assert "an upgrade of instar is running" in said.err
    result = upgrade.result(40)
    assert result["outcome"] == "rolled-back"
    assert result["error"] == "the new version did not end its self-test within 6 s"
    assert instance.status()["version"] == "1.0"
    assert instance.status()["upgrade"]["last"]["error"] == result["error"]
    again = instance.handover({"limit": 60.0}, "/v1/upgrade")
    again.wait_stage("self-test", "started", 40)
    pid = instance.pid
    assert instance.command("stop").code == 0
    assert not alive(pid)


@pytest.mark.long
def test_who_asks_while_it_starts_is_answered_then(
    project: Project, instance: Instance, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Clients wait in the control socket, and so does a signal."""
    go = project.root / "go"
    monkeypatch.setenv("TEST_GO", str(go))
    instance.start(program=[str(site.program)])
    site.install("2.0", "early is slow")
    upgrade = instance.spawn("upgrade")
    wait_for("the new version starts", lambda: b"changeover" in command_of(instance.pid), 40)
    status = instance.spawn("status", "--json")
    os.kill(instance.pid, signal.SIGTERM)
    breathe(1.0)
    assert status.poll() is None
    assert ask(project.port) == 1
    go.touch()
    out, err = status.communicate(timeout=30)
    assert (status.returncode, json.loads(out)["version"]) == (0, "2.0"), err
    wait_for("the end that was asked for", lambda: not alive(instance.pid), 30)
    upgrade.communicate(timeout=60)


def command_of(pid: int) -> bytes:
    """Its command line."""
    return Path(f"/proc/{pid}/cmdline").read_bytes()


@pytest.mark.long
def test_a_drain_comes_first(project: Project, instance: Instance, site: Site) -> None:
    """Whoever waits for the result of a restart gets it."""
    instance.start(program=[str(site.program)])
    client = Connection(project.port)
    client.ask()
    restart = instance.spawn("restart")
    wait_for("the second generation serves", lambda: instance.status()["web"]["live_generation"] == 2, 30)
    wait_for("it drains", lambda: not instance.status()["handover"], 30)
    upgrade = instance.spawn("upgrade")
    breathe(1.0)
    assert (restart.poll(), upgrade.poll()) == (None, None)
    client.close()
    assert restart.wait(40) == 0
    assert upgrade.wait(60) == 0
    out, _ = upgrade.communicate()
    assert "wait done" in out
    restart.communicate()
    instance.settled(2)


@pytest.mark.long
@pytest.mark.parametrize("trouble", ["", "adopted raises", "adopted leaves"])
def test_a_unix_socket(project: Project, instance: Instance, site: Site, trouble: str) -> None:
    """An address that the kernel does not steer is adopted as well."""
    project.config["web"]["bind"].append(f"unix:{project.root}/web.sock")
    instance.start(program=[str(site.program)])
    before = family(instance)
    for version in ("2.0", "3.0"):
        site.install(version, trouble)
        assert instance.command("upgrade", *limit(trouble)).code == (3 if trouble else 0)
        assert ask_unix(project.root / "web.sock") == 200
        assert ask(project.port) == 1
        assert family(instance) == before
    assert instance.command("restart").code == 0
    assert ask_unix(project.root / "web.sock") == 200
    end(instance)


def ask_unix(path: Path) -> int:
    """The status of an answer."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(10)
        sock.connect(str(path))
        sock.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        return int(sock.makefile("rb").readline().split()[1])


@pytest.mark.long
def test_what_a_service_manager_sees(
    project: Project, instance: Instance, site: Site, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same main process; and when the guardian must take over, it says who is the main process now."""
    manager = Manager(folder)
    try:
        monkeypatch.setenv("NOTIFY_SOCKET", str(manager.path))
        monkeypatch.setenv("WATCHDOG_USEC", "20000000")
        instance.start(program=[*manager.program()[:-1], str(site.program)])
        pid = instance.pid
        manager.wait_for("READY")
        site.install("2.0")
        assert instance.command("upgrade").code == 0
        manager.wait_for("READY", count=2)
        assert {item["MAINPID"] for item in manager.catch_up() if "MAINPID" in item} == {str(pid)}
        count = len([item for item in manager.catch_up() if "WATCHDOG" in item])
        manager.wait_for("WATCHDOG", count=count + 1, limit=15)
        assert b"NOTIFY_SOCKET" not in Path(f"/proc/{instance.live()['pid']}/environ").read_bytes()
        site.install("3.0", "adopted hangs deaf")
        assert instance.command("upgrade", *limit("hangs")).code == 3
        now = instance.status()["pid"]
        assert now != pid
        manager.wait_for("READY", count=3)
        named = [item["MAINPID"] for item in manager.catch_up() if "MAINPID" in item]
        # Before the other was ended, and when it was ready itself.
        assert named[-2:] == [str(now), str(now)]
        # It feeds the watchdog as well.
        count = len([item for item in manager.catch_up() if "WATCHDOG" in item])
        manager.wait_for("WATCHDOG", count=count + 1, limit=15)
        end(instance)
    finally:
        manager.close()


@pytest.mark.long
def test_a_version_that_does_not_understand_what_runs(project: Project, instance: Instance, site: Site) -> None:
    """It says so before anything changes."""
    instance.start(program=[str(site.program)])
    site.install("2.0", more="PROTOCOL, OLDEST_PROTOCOL = 9, 8")
    said = instance.command("upgrade")
    assert said.code == 3
    assert "a generation speaks protocol 1, and instar 2.0 understands 8 to 9" in said.err
    assert instance.status()["version"] == "1.0"


@pytest.mark.long
def test_another_environment(project: Project, instance: Instance, site: Site, tmp_path: Path) -> None:
    """`--to` names it, and later upgrades stay there."""
    instance.start(program=[str(site.program)])
    other = Site(tmp_path).install("2.0")
    assert instance.command("upgrade", "--to", str(other.program)).code == 0
    assert instance.status()["version"] == "2.0"
    other.install("2.1")
    assert instance.command("upgrade").code == 0
    assert instance.status()["version"] == "2.1"
    said = instance.command("upgrade", "--to", str(tmp_path / "nothing"))
    assert "it is no program" in said.err


@pytest.mark.long
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can change the user: run the tests as root")
@pytest.mark.parametrize("trouble", ["", "adopted raises", "adopted leaves"])
def test_processes_of_another_user(
    project: Project, instance: Instance, site: Site, folder: Path, trouble: str
) -> None:
    """Generations that are booted after going back run from the copy, which their user can read and not write."""
    nobody = pwd.getpwnam("nobody")
    packages = str(Path(importlib.util.find_spec("granian").origin).parents[1])  # type: ignore[union-attr, arg-type]
    code = f"import sys; sys.path.insert(0, {packages!r}); import granian"
    version = f"python3.{sys.version_info.minor}"
    for python in (sys.executable, f"/usr/bin/{version}", f"/usr/local/bin/{version}"):
        with contextlib.suppress(OSError):
            if subprocess.run([python, "-c", code], user=nobody.pw_uid, cwd="/", check=False).returncode == 0:
                break
    else:
        pytest.skip(f"no {version} that nobody can run: install one outside of root's home")
    folder.chmod(0o755)
    project.config["app"]["python"] = python
    project.config["app"]["pythonpath"].append(packages)
    project.gates.chmod(0o777)
    project.config["app"]["user"] = "nobody"
    instance.start(program=[str(site.program)])
    pid, before = instance.pid, family(instance)
    site.install("2.0", trouble)
    assert instance.command("upgrade").code == (3 if trouble else 0)
    assert family(instance) == before
    assert instance.command("restart").code == 0
    assert ask(project.port) == 2
    zygote = instance.live()["pid"]
    assert Path(f"/proc/{zygote}").stat().st_uid == nobody.pw_uid
    assert (b"/releases/" in command_of(zygote)) == bool(trouble)
    copies = list((instance.state_dir / "releases").iterdir())
    assert {path.stat().st_uid for path in copies} == {0}
    assert pid
    end(instance)
