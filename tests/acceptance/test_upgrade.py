"""`instar upgrade` under load: the same process in another version, and the old one whenever the new one is no good."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from harness.handlers import all_active, pool
from harness.instance import Instance
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
#: Seconds that a new version gets in tests.
LIMIT = "12s"


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
    """In place, twice; the second time by SIGUSR2: handlers and a job go on. Then a restart and a rollback as ever."""
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
        site.install("3.0")
        os.kill(pid, signal.SIGUSR2)
        wait_for("the third version", lambda: answers(instance) == "3.0", 40)
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


def holders(instance: Instance) -> dict[str, tuple[int, int]]:
    """Who has which name, and in which epoch."""
    return {row["name"]: (row["pid"], row["epoch"]) for row in instance.status()["handlers"]}


def answers(instance: Instance) -> str:
    """The version that answers, if one does."""
    try:
        return str(instance.status()["version"])
    except (OSError, AssertionError):
        return ""


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


@pytest.mark.parametrize("trouble", ["adopted raises"])
def test_a_version_that_fails_gives_way(project: Project, instance: Instance, site: Site, trouble: str) -> None:
    gives_way(project, instance, site, trouble)


@pytest.mark.long
@pytest.mark.parametrize("trouble", ["early raises", "early exits", "early hangs", "adopted exits", "adopted hangs"])
def test_other_ways_to_fail(project: Project, instance: Instance, site: Site, trouble: str) -> None:
    gives_way(project, instance, site, trouble)


def gives_way(project: Project, instance: Instance, site: Site, trouble: str) -> None:
    """The old version runs on in the same process, from its copy; nobody has noticed."""
    instance.start(program=[str(site.program)])
    pid, before = instance.pid, family(instance)
    with under_load(project):
        site.install("2.0", trouble)
        said = instance.command("upgrade", "--timeout", LIMIT, "--json")
    assert said.code == 3, said
    assert (said.json["outcome"], said.json["to_version"], said.json["version"]) == ("rolled-back", "2.0", "1.0")
    what = {"raises": "broken release", "exits": "ended with status 9", "hangs": "was not ready within 12 s"}
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
        said = instance.command("upgrade", "--timeout", LIMIT, "--json")
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
    instance.start(program=[str(site.program)])
    site.install("2.0", "hanging self-test")
    said = instance.command("upgrade", "--timeout", "6s")
    assert said.code == 3
    assert "the new version did not end its self-test within 6 s" in said.err
    assert instance.status()["version"] == "1.0"


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
