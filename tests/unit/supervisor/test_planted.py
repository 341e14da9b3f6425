"""Root with `[app] user`: what the application's user puts in the place of files and folders leads root nowhere."""

from __future__ import annotations

import asyncio
import itertools
import os
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from instar.config.loading import checked
from instar.config.service import Service
from instar.errors import InstarError
from instar.supervisor import jobs
from instar.supervisor.hooks import HookError, run_hooks
from instar.supervisor.launcher import JobLauncher
from instar.supervisor.output import OutputFollower
from instar.supervisor.plan import Credentials, Plan
from instar.supervisor.record import Processes
from instar.supervisor.services import Services
from instar.supervisor.statedir import StateDir, listen_unix
from instar.system import System
from instar.uwsgi import dance, hooks
from instar.uwsgi.model import Hook

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can be led elsewhere: run the tests as root")

#: The application's user.
USER = 65534
WHO = Credentials(USER, USER, (USER,))


@pytest.fixture
def state(tmp_path: Path) -> StateDir:
    state = StateDir(tmp_path / "state")
    state.create(USER, USER)
    return state


@pytest.fixture
def victim(tmp_path: Path) -> Path:
    """A folder of root with one file."""
    folder = tmp_path / "victim"
    folder.mkdir()
    (folder / "file").write_text("root's own\n")
    return folder


def untouched(victim: Path) -> bool:
    file = victim / "file"
    return (
        list(victim.iterdir()) == [file]
        and file.read_text() == "root's own\n"
        and {victim.stat().st_uid, file.stat().st_uid} == {0}
        and file.stat().st_mode & 0o777 == 0o644
    )


def plan(state: StateDir, **more: dict[str, Any]) -> Plan:
    raw = {"app": {"target": "x:app"}, **more}
    return Plan.of(checked(raw, base=state.root, name="the test"))


# --- folders ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["app", "app/output"])
def test_the_state_directory(tmp_path: Path, victim: Path, name: str) -> None:
    state = StateDir(tmp_path / "state")
    place = state.root / name
    place.parent.mkdir(parents=True)
    place.symlink_to(victim)
    with pytest.raises(InstarError, match="cannot create the state directory"):
        state.create(USER, USER)
    assert untouched(victim)


def test_a_state_directory_that_the_user_owns(tmp_path: Path) -> None:
    (tmp_path / "home").mkdir()
    os.chown(tmp_path / "home", USER, USER)
    with pytest.raises(InstarError, match="INSTAR_STATE_DIR"):
        StateDir(tmp_path / "home" / "state").create(USER, USER)


@pytest.mark.parametrize("name", ["g7", "handlers"])
def test_folders_of_generations_and_names(state: StateDir, victim: Path, name: str) -> None:
    place = (state.app if name == "handlers" else state.output) / name
    place.symlink_to(victim)
    with pytest.raises(OSError):
        state.handlers(USER, USER) if name == "handlers" else state.generation_output(7, USER, USER)
    assert untouched(victim)


@pytest.mark.parametrize("name", ["jobs", "store"])
def test_folders_of_jobs(state: StateDir, victim: Path, tmp_path: Path, name: str) -> None:
    home = tmp_path / "home"
    home.mkdir()
    (home / "link").symlink_to(victim)
    os.chown(home, USER, USER)
    home.chmod(0o500)
    where = {"folder": f"{home}/link/jobs"} if name == "jobs" else {"store": f"sqlite:///{home}/link/db/jobs.sqlite3"}
    config = plan(state, jobs={"pool": "runners", **where}, handlers={"runners": {"count": 1}}).config
    with pytest.raises(InstarError, match="cannot prepare jobs"):
        jobs.publish(config, state, WHO, 1)
    assert untouched(victim)


def test_the_document_of_jobs(state: StateDir, victim: Path) -> None:
    jobs.document(state, 1).symlink_to(victim / "file")
    for folder in itertools.takewhile(lambda folder: folder != Path("/tmp"), state.root.parents):
        folder.chmod(0o711)
    config = plan(state, jobs={"pool": "runners", "folder": str(state.app / "jobs")}, handlers={"runners": {}}).config
    jobs.publish(config, state, WHO, 1)
    assert untouched(victim)
    assert not jobs.document(state, 1).is_symlink()
    assert (state.app / "jobs").stat().st_uid == USER


def test_names_of_zerglings(tmp_path: Path, victim: Path) -> None:
    (tmp_path / "pool").mkdir()
    (tmp_path / "pool" / "handlers").symlink_to(victim)
    with pytest.raises(InstarError, match="zerg pool"):
        dance.create(tmp_path / "pool", WHO)
    assert untouched(victim)


def test_files_of_a_retired_generation(state: StateDir, victim: Path) -> None:
    """Deleting is bound to our own folders as well."""
    (victim / "g3").mkdir()
    (victim / "g3" / "web.1.out").touch()
    follower = OutputFollower(state.output, lambda record: None, state=state.control / "follower.json")
    state.output.rmdir()
    state.output.symlink_to(victim)
    follower.retire(3)
    with pytest.raises(OSError):
        follower.poll_once()
    assert (victim / "g3" / "web.1.out").exists()


# --- files -----------------------------------------------------------------------------------------


def symbolic(path: Path, victim: Path) -> None:
    path.parent.mkdir()
    path.symlink_to(victim / "file")


def hard(path: Path, victim: Path) -> None:
    path.parent.mkdir()
    path.hardlink_to(victim / "file")


def fifo(path: Path, victim: Path) -> None:
    path.parent.mkdir()
    os.mkfifo(path)


def parent(path: Path, victim: Path) -> None:
    path.parent.symlink_to(victim)


planted = pytest.mark.parametrize("plant", [symbolic, hard, fifo, parent])
Plant = Callable[[Path, Path], None]


def soon(work: Coroutine[Any, Any, Any]) -> None:
    """A FIFO makes nobody wait."""
    asyncio.run(asyncio.wait_for(work, 10.0))


@planted
def test_output_of_hooks(state: StateDir, victim: Path, plant: Plant) -> None:
    path = state.output / "services" / "hooks.out"
    plant(path, victim)
    some = plan(state, restart={"before": [["/bin/echo", "planted"]]})
    with pytest.raises(HookError, match="cannot run hook"):
        soon(run_hooks(some.config.restart.before, some, path, {}, System()))
    assert untouched(victim)


@planted
def test_output_of_uwsgi_hooks(state: StateDir, victim: Path, plant: Plant) -> None:
    path = state.output / "services" / "hooks.out"
    plant(path, victim)
    world = hooks.HookWorld(print, System(), state.root, {}, user=WHO, output=path)
    with pytest.raises(HookError, match="cannot run hook"):
        soon(hooks.run("post-app", [Hook("post-app", "exec", "echo planted")], world))
    assert untouched(victim)


@planted
def test_output_of_services(state: StateDir, victim: Path, plant: Plant) -> None:
    plant(state.output / "services" / "echo.out", victim)
    said: asyncio.Queue[str] = asyncio.Queue()

    async def one_start() -> None:
        processes = Processes(state.control / "services.pids")
        services = Services(state.output / "services", System(), said.put_nowait, processes)
        service = Service.model_validate({"command": ["/bin/echo", "planted"]})
        await services.follow(plan(state, services={"echo": service.model_dump()}))
        assert "cannot start service echo" in await said.get()
        await services.stop()

    soon(one_start())
    assert untouched(victim)


@planted
def test_output_of_the_launcher(state: StateDir, victim: Path, plant: Plant) -> None:
    plant(state.output / "services" / "launcher.out", victim)
    said: asyncio.Queue[str] = asyncio.Queue()

    async def one_start() -> None:
        launcher = JobLauncher(state, System(), said.put_nowait)
        launcher.follow(plan(state, jobs={"pool": "runners"}, handlers={"runners": {"count": 1}}))
        assert "cannot be started" in await said.get()
        await launcher.stop()

    soon(one_start())
    assert untouched(victim)


def test_a_socket(state: StateDir, victim: Path) -> None:
    (state.app / "g1.sock").symlink_to(victim / "file")
    with listen_unix(state.app / "g1.sock", 5, 1):  # type: ignore[arg-type]
        assert (state.app / "g1.sock").lstat().st_mode & 0o777 == 0o600
    assert untouched(victim)
