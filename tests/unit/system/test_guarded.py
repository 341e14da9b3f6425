"""What root opens, makes and gives away among the application's files, with something planted there."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from instar.system import guarded

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away: run the tests as root")

#: The application's user.
USER = 65534

Plant = Callable[[Path, Path], object]


def symbolic(path: Path, target: Path) -> None:
    path.symlink_to(target)


def hard(path: Path, target: Path) -> None:
    target.touch()
    path.hardlink_to(target)


def fifo(path: Path, target: Path) -> None:
    os.mkfifo(path)


def fifo_with_reader(path: Path, target: Path) -> None:
    os.mkfifo(path)
    os.open(path, os.O_RDONLY | os.O_NONBLOCK)  # left to the end of the tests


def folder(path: Path, target: Path) -> None:
    path.mkdir()


@pytest.fixture
def base(tmp_path: Path) -> Path:
    (tmp_path / "base").mkdir()
    return tmp_path / "base"


@pytest.fixture
def victim(tmp_path: Path) -> Path:
    return tmp_path / "victim"


@pytest.mark.parametrize("plant", [symbolic, hard, fifo, fifo_with_reader, folder])
def test_a_planted_file_is_refused(base: Path, victim: Path, plant: Plant) -> None:
    (base / "output").mkdir()
    plant(base / "output" / "x.out", victim)
    before = victim.stat() if victim.exists() else None
    with pytest.raises(OSError):
        guarded.open_append(base, ("output", "x.out"))
    assert (victim.stat() if victim.exists() else None) == before


@pytest.mark.parametrize("depth", [0, 1])
def test_a_planted_folder_is_refused(base: Path, victim: Path, depth: int) -> None:
    victim.mkdir()
    parts = ("app", "output", "x.out")
    parent = base.joinpath(*parts[:depth])
    parent.mkdir(exist_ok=True)
    (parent / parts[depth]).symlink_to(victim)
    with pytest.raises(OSError):
        guarded.open_append(base, parts)
    with pytest.raises(OSError):
        guarded.open_folder(base, parts[:2], USER, USER)
    assert not list(victim.iterdir())
    assert victim.stat().st_uid == 0


def test_made_and_given(base: Path) -> None:
    os.close(guarded.open_folder(base, ("app", "output"), USER, USER))
    for path in (base / "app", base / "app" / "output"):
        found = path.stat()
        assert (found.st_uid, found.st_gid, found.st_mode & 0o777) == (USER, USER, 0o700)
    for text in (b"one\n", b"two\n"):
        fd = guarded.open_append(base, ("app", "output", "x.out"))
        assert os.get_blocking(fd)
        os.write(fd, text)
        os.close(fd)
    assert (base / "app" / "output" / "x.out").read_text() == "one\ntwo\n"


def test_what_is_somebody_elses_already_is_not_given(base: Path) -> None:
    (base / "app").mkdir()
    os.chown(base / "app", 12345, 12345)
    os.close(guarded.open_folder(base, ("app",), USER, USER))
    assert (base / "app").stat().st_uid == 12345


def bound(path: Path) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX)
    sock.bind(str(path))
    return sock


def test_a_socket_is_settled(base: Path) -> None:
    with bound(base / "s"):
        guarded.settle_socket(base / "s", 0o666, (USER, -1))
        found = (base / "s").stat()
        assert (found.st_uid, found.st_gid, found.st_mode & 0o777) == (USER, 0, 0o666)


@pytest.mark.parametrize("plant", [symbolic, hard, fifo, folder])
def test_what_took_the_place_of_a_socket_is_left_alone(base: Path, victim: Path, plant: Plant) -> None:
    victim.touch(0o600)
    plant(base / "s", victim)
    with pytest.raises(OSError, match="taken its place"):
        guarded.settle_socket(base / "s", 0o666, (USER, USER))
    assert (victim.stat().st_uid, victim.stat().st_mode & 0o777) == (0, 0o600)


def test_a_second_name_of_somebodys_socket_is_left_alone(base: Path, victim: Path) -> None:
    with bound(victim):
        (base / "s").hardlink_to(victim)
        with pytest.raises(OSError, match="taken its place"):
            guarded.settle_socket(base / "s", 0o666, (USER, USER))
        assert victim.stat().st_uid == 0
