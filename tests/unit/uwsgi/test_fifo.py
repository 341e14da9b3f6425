"""The master FIFO: every byte arrives, whoever writes, and the path is never missing."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from instar.errors import InstarError
from instar.uwsgi import fifo
from instar.uwsgi.fifo import MasterFifo

NAMES = ("new", "running", "old")


class World:
    def __init__(self, folder: Path) -> None:
        self.paths = [folder / name for name in NAMES]
        self.acted: list[str] = []
        self.log: list[str] = []
        self.fifo = MasterFifo(self.paths, self.acted.append, self.log.append)

    async def until(self, text: str) -> None:
        async with asyncio.timeout(5):
            while "".join(self.acted) != text:
                await asyncio.sleep(0.002)


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    world = World(tmp_path)
    world.fifo.open()
    yield world
    world.fifo.close()


async def test_letters_arrive_and_line_ends_do_not(world: World) -> None:
    assert fifo.write(world.paths[0], "r\nw")
    await world.until("rw")


async def test_a_digit_switches_before_the_letters_behind_it(world: World) -> None:
    fifo.write(world.paths[0], "2q")
    await world.until("q")
    assert world.fifo.path == world.paths[2]
    fifo.write(world.paths[2], "s")
    await world.until("qs")
    assert world.paths[0].is_fifo(), "if-exists has to find it, as under uWSGI"
    assert not fifo.write(world.paths[0], "r"), "nobody reads the one that was left"


async def test_a_slot_that_there_is_not_is_the_first(world: World) -> None:
    world.fifo.command("1")
    world.fifo.command("7")
    assert world.fifo.path == world.paths[0]


async def test_two_quick_writers_lose_nothing(world: World) -> None:
    """uWSGI itself loses most of this: it has no reader between two writers."""
    failures: list[OSError] = []

    def write(letter: str) -> None:
        for _ in range(1500):
            try:
                if not fifo.write(world.paths[0], letter):
                    raise OSError("no reader")
            except OSError as error:
                failures.append(error)
            time.sleep(0.001)

    writers = [asyncio.to_thread(write, letter) for letter in "rw"]
    await asyncio.gather(*writers)
    async with asyncio.timeout(5):
        while len(world.acted) < 3000:
            await asyncio.sleep(0.01)
    assert not failures
    assert sorted(set(world.acted)) == ["r", "w"] and world.acted.count("r") == 1500


async def test_a_writer_that_stays_open_is_heard_at_once(world: World) -> None:
    fd = os.open(world.paths[0], os.O_WRONLY)
    try:
        os.write(fd, b"1r")
        await world.until("r")
        assert world.fifo.path == world.paths[1]
    finally:
        os.close(fd)


async def test_the_path_is_never_without_a_fifo(world: World) -> None:
    missing: list[str] = []
    stop = threading.Event()

    def look() -> None:
        while not stop.is_set():
            try:
                os.close(os.open(world.paths[0], os.O_WRONLY | os.O_NONBLOCK))
            except OSError as error:
                missing.append(str(error))

    looking = asyncio.create_task(asyncio.to_thread(look))
    for _ in range(300):
        world.fifo.command("0")
        await asyncio.sleep(0)
    stop.set()
    await looking
    # ENXIO is possible for the old one, between its close and the look; absence is not.
    assert not [text for text in missing if "No such file" in text]


async def test_a_clean_end_removes_the_path(world: World) -> None:
    world.fifo.command("1")
    world.fifo.close()
    assert not world.paths[1].exists() and world.paths[0].is_fifo()


async def test_a_path_that_another_has_taken_is_left_to_it(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fifo, "_LOOK_EVERY", 0.01)
    world.fifo.close()
    world.fifo.open()
    other = World(world.paths[0].parent)
    other.fifo.open()
    try:
        async with asyncio.timeout(5):
            while not world.fifo.stolen:
                await asyncio.sleep(0.005)
        assert any("another process has taken" in line for line in world.log)
        world.fifo.close()
        assert world.paths[0].is_fifo()
        fifo.write(world.paths[0], "p")
        await other.until("p")
        assert not world.acted
    finally:
        other.fifo.close()


async def test_a_path_that_was_removed_comes_back(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fifo, "_LOOK_EVERY", 0.01)
    world.fifo.close()
    world.fifo.open()
    world.paths[0].unlink()
    async with asyncio.timeout(5):
        while not world.paths[0].is_fifo():
            await asyncio.sleep(0.005)
    fifo.write(world.paths[0], "r")
    await world.until("r")


async def test_something_else_at_the_path_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "new").write_text("echo without a FIFO makes a file")
    world = World(tmp_path)
    world.fifo.open()
    assert world.paths[0].is_fifo()
    world.fifo.close()


async def test_a_folder_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    broken = MasterFifo([tmp_path / "absent" / "fifo"], print, print)
    with pytest.raises(InstarError, match=r"cannot make the master FIFO .*absent/fifo: No such file"):
        broken.open()


async def test_a_slot_that_cannot_be_opened_leaves_the_open_one(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.fifo = MasterFifo([tmp_path / "one", tmp_path / "absent" / "two"], world.acted.append, world.log.append)
    world.fifo.open()
    world.fifo.command("1r")
    assert world.fifo.path == tmp_path / "one" and world.acted == ["r"]
    assert any("stays open" in line for line in world.log)
    world.fifo.close()


def test_writing_to_what_is_no_fifo_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("precious")
    with pytest.raises(OSError, match="no FIFO"):
        fifo.write(file, "2q")
    assert file.read_text() == "precious"
    with pytest.raises(FileNotFoundError):
        fifo.write(tmp_path / "absent", "2q")
