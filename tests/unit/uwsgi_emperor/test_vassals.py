"""An Emperor in this process, with vassals that are small scripts: what it does when they misbehave."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import os
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest

from instar.supervisor.logstore import LogStore
from instar.system import System
from instar.uwsgi.emperor.emperor import Emperor
from instar.uwsgi.emperor.settings import EmperorSettings
from instar.uwsgi.emperor.statedir import create
from instar.uwsgi.emperor.vassal import State

#: Its file's last word says what it does.
SCRIPT = """#!{python} -IS
import os, socket, sys, time
link = socket.socket(fileno=int(os.environ["UWSGI_EMPEROR_FD"]))
name = sys.argv[sys.argv.index("--ini") + 1]
what = open(name).read().split()[-1]
link.send(bytes([1]))
if what == "fails":
    sys.exit(7)
link.send(bytes([5, 17]))
if what == "beats":
    link.send(bytes([26]))
if what == "hangs-up":
    link.close(); time.sleep(600)
if what == "is-idle":
    link.send(bytes([22]))
while order := link.recv(1):
    with open("orders", "a") as log:
        log.write(f"{{name}}:{{order[0]}} ")
    if order[0] in (0, 2) and what != "stays":
        break
"""


class World:
    """An Emperor with short times, and its folder."""

    def __init__(self, folder: Path, **settings: float | bool) -> None:
        self.folder = folder / "vassals"
        self.folder.mkdir()
        wrapper = folder / "wrapper"
        wrapper.write_text(SCRIPT.format(python=sys.executable))
        wrapper.chmod(0o755)
        short = EmperorSettings(
            self.folder.resolve(), str(wrapper), freq=0.05, throttle=0.2, mercy=1.0, curse_tolerance=1.0
        )
        state = create(self.folder)
        self.log = LogStore(state.log)
        self.emperor = Emperor(
            dataclasses.replace(short, **settings),
            state,
            System(),
            self.log,
            collect=lambda: None,
            wrapper_is_uwsgi=True,
        )
        self.task = asyncio.create_task(self.emperor.serve())

    def write(self, name: str, what: str, more: str = "") -> Path:
        new = self.folder / f".{name}"
        new.write_text(f"[uwsgi]\nmodule = x\n{more}what = {what}\n")
        return new.rename(self.folder / name)

    def state(self, name: str = "a.ini") -> State | None:
        vassal = self.emperor.vassals.get(name)
        return vassal.state if vassal else None

    def pid(self, name: str = "a.ini") -> int:
        vassal = self.emperor.vassals.get(name)
        return vassal.process.pid if vassal and vassal.process else 0

    def orders(self) -> list[str]:
        return (self.folder / "orders").read_text().split() if (self.folder / "orders").exists() else []

    async def until(self, what: str, check: Callable[[], object], limit: float = 20.0) -> None:
        async def wait() -> None:
            while not check():
                assert not self.task.done(), self.task.result()
                await asyncio.sleep(0.01)

        try:
            await asyncio.wait_for(wait(), limit)
        except TimeoutError:
            lines = "\n".join(record.text for record in self.log.tail(50))
            raise AssertionError(f"not within {limit} s: {what}\n{lines}") from None

    async def end(self) -> None:
        self.emperor.stop()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(asyncio.shield(self.task), 20)
        assert self.task.done()
        self.log.close()


@pytest.fixture
def short() -> Iterator[Path]:
    """A folder in which uWSGI could have its sockets: the name of a test makes paths too long for it."""
    with tempfile.TemporaryDirectory(prefix="instar-") as folder:
        yield Path(folder)


@pytest.fixture
async def make(short: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Callable[..., World]]:
    monkeypatch.setenv("INSTAR_STATE_DIR", str(short / "s"))
    worlds: list[World] = []

    def build(**settings: float | bool) -> World:
        worlds.append(World(Path(tempfile.mkdtemp(dir=short)), **settings))
        return worlds[-1]

    yield build
    for world in worlds:
        await world.end()


async def test_pauses_grow_and_a_touch_ends_them(make: Callable[..., World]) -> None:
    world = make()
    path = world.write("a.ini", "fails")
    await world.until("three failures", lambda: (v := world.emperor.vassals.get("a.ini")) and v.throttle.attempts >= 3)
    vassal = world.emperor.vassals["a.ini"]
    assert 0.2 < vassal.throttle.remaining(world.emperor.now) <= 0.4
    assert "exited with status 7" in vassal.note
    path.write_text("[uwsgi]\nmodule = x\nwhat = works\n")
    await world.until("it works now", lambda: world.state() is State.SERVING)
    assert vassal.throttle.attempts == 0


async def test_without_blacklist_there_is_no_pause(make: Callable[..., World]) -> None:
    world = make(no_blacklist=True, throttle=60.0)
    world.write("a.ini", "fails")
    await world.until("five starts", lambda: (v := world.emperor.vassals.get("a.ini")) and v.restarts >= 5)


async def test_touch_sends_one_byte_and_removal_another(make: Callable[..., World]) -> None:
    world = make()
    path = world.write("a.ini", "works")
    await world.until("it serves", lambda: world.state() is State.SERVING)
    pid = world.pid()
    os.utime(path)
    await world.until("byte 1", lambda: world.orders() == ["a.ini:1"])
    path.unlink()
    await world.until("byte 0 and its end", lambda: world.orders() == ["a.ini:1", "a.ini:0"] and not _lives(pid))
    assert world.state() is None


async def test_graceful_shutdown_is_another_byte(make: Callable[..., World]) -> None:
    world = make(graceful_shutdown=True)
    world.write("a.ini", "works")
    await world.until("it serves", lambda: world.state() is State.SERVING)
    await world.end()
    assert world.orders() == ["a.ini:2"]


async def test_a_file_that_is_away_for_a_moment_stops_nothing(make: Callable[..., World]) -> None:
    world = make()
    path = world.write("a.ini", "works")
    await world.until("it serves", lambda: world.state() is State.SERVING)
    pid = world.pid()
    away = path.rename(path.with_name("away"))
    await asyncio.sleep(0.1)  # less than the time to the second look; a scan falls into it
    away.rename(path)
    before = world.emperor.scans
    await world.until("scans after it", lambda: world.emperor.scans > before + 1)
    assert world.pid() == pid
    assert "a.ini:0" not in world.orders()


async def test_a_file_that_comes_back_waits_for_the_end_of_the_first(make: Callable[..., World]) -> None:
    world = make()
    path = world.write("a.ini", "stays")
    await world.until("it serves", lambda: world.state() is State.SERVING)
    first = world.pid()
    path.unlink()
    await world.until("it is told to go", lambda: "a.ini:0" in world.orders())
    world.write("a.ini", "works")
    await world.until("another one", lambda: world.pid() not in (0, first))
    assert not _lives(first)


async def test_another_program_takes_the_place_of_the_first(make: Callable[..., World]) -> None:
    world = make()
    world.write("a.ini", "works")
    await world.until("it serves", lambda: world.state() is State.SERVING)
    first, other = world.pid(), world.folder.parent / "other"
    other.write_text((world.folder.parent / "wrapper").read_text())
    other.chmod(0o755)
    world.write("a.ini", "works", f"; instar: uwsgi={other}\n")
    await world.until("another one", lambda: world.pid() not in (0, first) and world.state() is State.SERVING)
    process = world.emperor.vassals["a.ini"].process
    assert process and process.program == str(other)
    assert world.orders() == ["a.ini:2"]


async def test_the_end_of_the_emperor_in_the_middle_of_a_removal(make: Callable[..., World]) -> None:
    world = make()
    path = world.write("a.ini", "stays")
    await world.until("it serves", lambda: world.state() is State.SERVING)
    pid = world.pid()
    path.unlink()
    await world.until("it is told to go", lambda: "a.ini:0" in world.orders())
    await world.end()
    assert not _lives(pid)


async def test_one_that_stays_is_killed(make: Callable[..., World]) -> None:
    world = make()
    path = world.write("a.ini", "stays")
    await world.until("it serves", lambda: world.state() is State.SERVING)
    pid = world.pid()
    path.unlink()
    await world.until("it is gone", lambda: not _lives(pid))


async def test_one_that_stops_its_heartbeats_is_killed_and_comes_back(make: Callable[..., World]) -> None:
    world = make(heartbeat=0.3)
    world.write("a.ini", "beats")
    await world.until("it serves", lambda: world.state() is State.SERVING)
    pid = world.pid()
    await world.until("another one", lambda: world.pid() not in (0, pid))
    assert not _lives(pid)


async def test_one_that_hangs_up_and_lives_on_is_killed(make: Callable[..., World]) -> None:
    world = make()
    world.write("a.ini", "hangs-up")
    await world.until("it serves", lambda: world.state() is State.SERVING)
    pid = world.pid()
    await world.until("another one", lambda: world.pid() not in (0, pid))


async def test_one_that_is_idle_is_told_to_go(make: Callable[..., World]) -> None:
    world = make()
    world.write("a.ini", "is-idle")
    await world.until("byte 0", lambda: "a.ini:0" in world.orders())


async def test_pool_first_and_last(make: Callable[..., World]) -> None:
    world = make()
    world.write("a.ini", "works", "zerg = /run/none/pool.sock\n")
    world.write("z.ini", "works", "zerg-pool = /run/none/pool.sock:127.0.0.1:1\nmule = x\n")
    await world.until("both serve", lambda: world.state() is world.state("z.ini") is State.SERVING)
    vassals = world.emperor.vassals
    assert vassals["z.ini"].first_run < vassals["a.ini"].first_run
    await world.end()
    assert world.orders() == ["a.ini:0", "z.ini:0"]


async def test_a_state_directory_with_a_long_path_is_told_but_stops_nothing(
    make: Callable[..., World], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("INSTAR_STATE_DIR", str(tmp_path / ("x" * 90)))
    world = make()
    world.write("a.ini", "works", "zerg = /run/none/pool.sock\n")
    await world.until("it serves", lambda: world.state() is State.SERVING)
    report = world.emperor.restart("a", {})
    result = await report.wait()
    assert (result["outcome"], "choose a shorter one" in result["error"]) == ("failed", True)
    assert world.state() is State.SERVING


async def test_a_program_that_is_not_there_is_a_failure_like_others(make: Callable[..., World]) -> None:
    world = make()
    world.write("a.ini", "works", "; instar: uwsgi=/nowhere/uwsgi\n")
    await world.until("a failure", lambda: (v := world.emperor.vassals.get("a.ini")) and v.throttle.attempts >= 1)
    assert "cannot be started: /nowhere/uwsgi: No such file or directory" in world.emperor.vassals["a.ini"].note


async def test_a_folder_that_cannot_be_read_stops_nothing(make: Callable[..., World], tmp_path: Path) -> None:
    world = make()
    world.write("a.ini", "works")
    await world.until("it serves", lambda: world.state() is State.SERVING)
    pid = world.pid()
    world.folder.rename(tmp_path / "away")
    await world.until("it is said", lambda: any("the vassals run on" in item.text for item in world.log.tail(5)))
    assert world.pid() == pid
    (tmp_path / "away").rename(world.folder)


def _lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
