"""Folders at configured places, made by root for the application's user."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from instar.system import trust

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can act as another user: run the tests as root")

#: The application's user.
USER = 65534


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A folder that everybody can reach."""
    folder = tmp_path
    while folder.stat().st_uid == 0 and folder != Path("/"):
        if not folder.stat().st_mode & 0o001:
            folder.chmod(0o711)
        folder = folder.parent
    return tmp_path


def theirs(path: Path) -> Path:
    path.mkdir()
    os.chown(path, USER, USER)
    return path


def owner(path: Path) -> tuple[int, int, int]:
    found = path.lstat()
    return found.st_uid, found.st_gid, found.st_mode & 0o777


def test_below_root_it_is_made_by_root_and_given(place: Path) -> None:
    trust.make_folder(place / "lib" / "app", USER, USER)
    assert owner(place / "lib") == (0, 0, 0o711)
    assert owner(place / "lib" / "app") == (USER, USER, 0o700)


def test_below_the_user_it_is_made_as_the_user(place: Path) -> None:
    home = theirs(place / "home")
    trust.make_folder(home / "a" / "b", USER, USER)
    assert owner(home / "a")[:2] == owner(home / "a" / "b")[:2] == (USER, USER)


@pytest.mark.parametrize("deep", [False, True])
def test_a_link_of_the_user_leads_root_nowhere(place: Path, deep: bool) -> None:
    home, victim = theirs(place / "home"), place / "victim"
    victim.mkdir()
    (home / "link").symlink_to(victim)
    os.chown(home / "link", USER, USER, follow_symlinks=False)
    if deep:
        # The user makes sure that it could not do it itself, so that root tries.
        home.chmod(0o500)
    with pytest.raises(PermissionError):
        trust.make_folder(home / "link" / "jobs", USER, USER)
    with pytest.raises(PermissionError):
        trust.make_folder(home / "link" / "more" / "jobs", USER, USER)
    assert not list(victim.iterdir())


def test_a_link_of_the_administrator_is_followed(place: Path) -> None:
    (place / "real").mkdir()
    (place / "real" / "deeper").mkdir()
    (place / "link").symlink_to("real")
    (place / "absolute").symlink_to(place / "link" / ".." / "real" / "deeper")
    trust.make_folder(place / "link" / "app", USER, USER)
    trust.make_folder(place / "absolute" / "app", USER, USER)
    assert owner(place / "real" / "app")[0] == owner(place / "real" / "deeper" / "app")[0] == USER
    trust.check(place / "absolute")


def test_what_is_there_stays_as_it_is(place: Path) -> None:
    (place / "there").mkdir(0o750)
    trust.make_folder(place / "there", USER, USER)
    assert owner(place / "there") == (0, 0, 0o750)


def test_links_in_a_circle_end(place: Path) -> None:
    (place / "a").symlink_to("b")
    (place / "b").symlink_to("a")
    with pytest.raises(OSError):
        trust.make_folder(place / "a" / "x", USER, USER)


def test_a_file_in_the_way(place: Path) -> None:
    (place / "file").touch()
    with pytest.raises(OSError):
        trust.make_folder(place / "file" / "x", USER, USER)


@pytest.mark.parametrize(("mode", "group", "good"), [
    (0o755, 0, True), (0o775, 0, True), (0o775, 100, False), (0o757, 0, False), (0o1777, 0, True),
])  # fmt: skip
def test_who_may_write_in_a_folder_on_the_way(place: Path, mode: int, group: int, good: bool) -> None:
    way = place / "way"
    (way / "state").mkdir(parents=True)
    os.chown(way, 0, group)
    way.chmod(mode)
    if good:
        trust.check(way / "state")
    else:
        with pytest.raises(PermissionError, match="somebody else"):
            trust.check(way / "state")


def test_a_sticky_folder_with_a_folder_of_somebody_else(place: Path) -> None:
    way = place / "way"
    way.mkdir()
    way.chmod(0o1777)
    theirs(way / "state")
    with pytest.raises(PermissionError):
        trust.check(way / "state")


def test_rights_end_with_the_call(place: Path) -> None:
    (place / "secret").mkdir(0o700)
    with pytest.raises(PermissionError):
        trust.as_user(USER, USER, lambda: list((place / "secret").iterdir()))
    assert list((place / "secret").iterdir()) == []
