"""Hooks: what each action does, who may run it, and what is refused before anything starts."""

from __future__ import annotations

import asyncio
import os
import signal
import stat
from pathlib import Path

import pytest

from instar.errors import ConfigError
from instar.supervisor.hooks import HookError
from instar.supervisor.plan import Credentials
from instar.system import System
from instar.uwsgi import hook_files, hooks
from instar.uwsgi.fifo import MasterFifo
from instar.uwsgi.hooks import HookWorld
from instar.uwsgi.letters import Order
from instar.uwsgi.model import Hook, Phase


class World(HookWorld):
    def __init__(self, folder: Path) -> None:
        self.lines: list[str] = []
        super().__init__(
            log=self.lines.append, system=System(), cwd=folder, env=dict(os.environ), output=folder / "output"
        )

    async def run(self, *lines: str, phase: Phase = "accepting") -> None:
        found = [Hook(phase, *line.split(":", 1)) for line in lines]
        hooks.check(found)
        await hooks.run(phase, found, self)


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


async def test_files(world: World) -> None:
    folder = world.cwd
    await world.run(
        "mkdir:sub",
        "create:sub/a",
        "write:b one",
        "writen:c two",
        "append:b  more",
        "appendn:c three",
        "appendn:c",
        "chmod:b 640",
        "sticky:sub",
        "symlink:b link",
        "link:b hard",
        "rename:sub/a sub/z",
        f"chown2:b {os.getuid()} {os.getgid()}",
        "touch:touched",
        "unlink:touched",
    )
    assert (folder / "sub/z").read_text() == "" and not (folder / "sub/a").exists()
    assert (folder / "b").read_text() == "one more" and (folder / "c").read_text() == "two\nthree\n\n"
    assert stat.S_IMODE((folder / "b").stat().st_mode) == 0o640
    assert (folder / "sub").stat().st_mode & stat.S_ISVTX
    assert (folder / "link").readlink() == Path("b") and (folder / "hard").samefile(folder / "b")
    assert not (folder / "touched").exists()


async def test_programs_run_by_a_shell_in_the_folder_that_cd_chose(world: World) -> None:
    (world.cwd / "sub").mkdir()
    await world.run("cd:sub", "putenv:WORD=from a hook", 'exec:echo "$WORD" $UWSGI_HOOK_CONTEXT > here; pwd')
    assert (world.cwd / "here").read_text() == "from a hook accepting\n"
    assert "sub" in (world.cwd.parent / "output").read_text()
    assert Path.cwd() != world.cwd, "cd is for hooks only"


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("exec:exit 3", "exited with status 3"),
        ("unlink:absent", "no such file or directory"),
        ("chmod:absent", "it needs the form FILE MODE"),
        ("cd:absent", "there is no such folder"),
        ("writefifo:absent 2q", "no such file or directory"),
        ("writefifo:absent", "it needs the form FIFO TEXT"),
        ("chown:absent nosuchuser nosuchgroup", "nosuchuser"),
    ],
)
async def test_failures_end_the_phase(world: World, line: str, reason: str) -> None:
    with pytest.raises(HookError, match=reason):
        await world.run(line, "touch:never")
    assert not (world.cwd / "never").exists()


async def test_failures_that_end_nothing(world: World) -> None:
    await world.run("safeexec:exit 3", "touch:first")
    await world.run("exec:exit 3", "touch:second", phase="touch")
    await world.run("unlink:absent", "touch:third", phase="as-user-atexit")
    assert all((world.cwd / name).exists() for name in ("first", "second", "third"))


async def test_only_hooks_of_the_phase_run(world: World) -> None:
    found = [Hook("accepting", "touch", "a"), Hook("accepting1", "touch", "b")]
    await hooks.run("accepting1", found, world)
    assert (world.cwd / "b").exists() and not (world.cwd / "a").exists()


async def test_secrets_stay_out_of_the_log(world: World) -> None:
    with pytest.raises(HookError) as caught:
        await hooks.run("accepting", [Hook("accepting", "exec", "exit 7 # s3cret", secret=True)], world)
    assert not [line for line in (*world.lines, str(caught.value)) if "s3cret" in line]


async def test_a_program_does_not_block_the_loop_and_ends_with_its_hook(world: World) -> None:
    task = asyncio.create_task(world.run("exec:echo $$ > pid; exec sleep 60"))
    pid = world.cwd / "pid"
    async with asyncio.timeout(10):
        while not pid.exists() or not pid.read_text():
            await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    with pytest.raises(ProcessLookupError):
        os.kill(int(pid.read_text()), 0)


async def test_waiting_for_files(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    task = asyncio.create_task(world.run("wait_for_dir:later", "wait_for_fs:later"))
    await asyncio.sleep(0)
    (world.cwd / "later").mkdir()
    async with asyncio.timeout(5):
        await task
    monkeypatch.setattr(hooks, "_WAIT", 0.0)
    with pytest.raises(HookError, match="did not appear"):
        await world.run("wait_for_file:later")


# --- FIFOs ------------------------------------------------------------------------------------------


async def test_writefifo_without_reader_is_no_error(world: World) -> None:
    os.mkfifo(world.cwd / "fifo")
    await world.run("writefifo:fifo 2q")
    assert any("nobody reads" in line for line in world.lines)


async def test_spinningfifo_waits_for_its_reader(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hooks, "_TRY_EVERY", 0.005)
    monkeypatch.setattr(hooks, "_COMPLAIN_EVERY", 0.01)
    task = asyncio.create_task(world.run("spinningfifo:fifo 1"))
    async with asyncio.timeout(5):
        while not any("spinningfifo waits" in line for line in world.lines):
            await asyncio.sleep(0.005)
    heard: list[str] = []
    reader = MasterFifo([world.cwd / "fifo", world.cwd / "next"], heard.append, world.lines.append)
    reader.open()
    async with asyncio.timeout(5):
        await task
        while reader.path != world.cwd / "next":
            await asyncio.sleep(0.005)
    reader.close()


async def test_its_own_fifo_is_obeyed_even_if_another_has_its_place(world: World) -> None:
    """Two that start together make the same FIFO; the one that lost it must not tell the other to move on."""
    paths = [world.cwd / "new", world.cwd / "running"]
    mine: list[str] = []
    other: list[str] = []
    world.fifo = MasterFifo(paths, mine.append, world.lines.append)
    world.fifo.open()
    thief = MasterFifo(paths, other.append, world.lines.append)
    thief.open()
    await world.run("spinningfifo:new 1")
    assert world.fifo.path == paths[1] and thief.path == paths[0]
    world.fifo.close()
    thief.close()


@pytest.mark.parametrize("text", ["2q", "Q", "1rq"])
async def test_a_hook_never_stops_its_own_instance(world: World, text: str) -> None:
    heard: list[str] = []
    world.fifo = MasterFifo([world.cwd / "fifo", world.cwd / "two"], heard.append, world.lines.append)
    world.fifo.open()
    await world.run(f"writefifo:fifo {text}")
    assert not heard and world.fifo.path == world.cwd / "fifo"
    assert any("own FIFO" in line for line in world.lines)
    world.fifo.close()


# --- before the start -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "text"),
    [
        ("writefif:x q", "there is no action writefif; did you mean writefifo?"),
        ("mount:proc /proc", "has no mount hook: use a mount unit"),
        ("unix_signal:2 gracefuly_kill_them_all", "did you mean gracefully_kill_them_all?"),
        ("unix_signal:gracefully_kill_them_all", "it needs the form NUMBER FUNCTION"),
        ("unix_signal:9 kill_them_all", "cannot handle signal 9"),
        ("unix_signal:900 kill_them_all", "it needs the form"),
    ],
)
def test_what_could_not_run_is_refused_at_the_start(line: str, text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        hooks.check([Hook("master-start", *line.split(":", 1))])
    assert text in str(caught.value)


def test_signals_of_the_recipe() -> None:
    found = [
        Hook("master-start", "unix_signal", "2 gracefully_kill_them_all"),
        Hook("master-start", "unix_signal", "15 gracefully_kill_them_all"),
        Hook("master-start", "print", "x"),
    ]
    assert hooks.signals(found) == {signal.SIGINT: Order.STOP, signal.SIGTERM: Order.STOP}


# --- users ------------------------------------------------------------------------------------------


@pytest.mark.skipif(os.getuid() != 0, reason="only root can act as another user")
async def test_hooks_after_the_privileges_are_dropped_run_as_the_application_user(world: World, tmp_path: Path) -> None:
    nobody = 65534
    tmp_path.chmod(0o711)
    for parent in tmp_path.parents:
        if parent.stat().st_uid == 0 and parent.stat().st_mode & 0o777 == 0o700:
            parent.chmod(0o711)
    mine = tmp_path / "of-nobody"
    mine.mkdir()
    os.chown(mine, nobody, nobody)
    (tmp_path / "output").touch()
    (tmp_path / "output").chmod(0o666)
    world.user = Credentials(nobody, nobody, (nobody,))
    world.cwd = mine
    await world.run("exec:id -u > who", "exec:touch made")
    assert (mine / "who").read_text() == "65534\n" and (mine / "made").stat().st_uid == nobody
    with pytest.raises(HookError):
        await world.run(f"exec:touch {tmp_path}/not-allowed")
    await world.run(f"touch:{tmp_path}/allowed", phase="as-root")
    assert (tmp_path / "allowed").stat().st_uid == 0


def test_the_program_for_files_says_what_is_wrong(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert hook_files.main(["touch", str(tmp_path / "x")]) == 0 and (tmp_path / "x").exists()
    assert hook_files.main(["unlink", str(tmp_path / "absent")]) == 1
    assert capsys.readouterr().err == "no such file or directory\n"


async def test_writefifo_reaches_another_instance(world: World) -> None:
    heard: list[str] = []
    other = MasterFifo([world.cwd / "theirs"], heard.append, world.lines.append)
    other.open()
    await world.run("writefifo:theirs rw")
    async with asyncio.timeout(5):
        while heard != ["r", "w"]:
            await asyncio.sleep(0.005)
    other.close()
