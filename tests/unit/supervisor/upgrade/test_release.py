"""Private copies: complete, readable for others, made once, forgotten in order."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import instar
from instar.errors import InstarError
from instar.supervisor.upgrade.release import Releases, way_back


@pytest.fixture
def package(tmp_path: Path) -> Path:
    package = tmp_path / "site" / "instar"
    (package / "cli").mkdir(parents=True)
    (package / "__init__.py").write_text("")
    (package / "cli" / "__init__.py").write_text("one = 1\n")
    return package


def test_a_copy_is_complete_and_readable_for_others(tmp_path: Path, package: Path) -> None:
    package.chmod(0o700)
    (package / "cli" / "__init__.py").chmod(0o600)
    mask = os.umask(0o077)
    try:
        home = Releases(tmp_path / "releases").keep(package)
    finally:
        os.umask(mask)
    assert home.parent == tmp_path / "releases"
    assert home.name.startswith(f"{instar.__version__}-")
    copied = home / "instar" / "cli" / "__init__.py"
    assert copied.read_text() == "one = 1\n"
    assert copied.stat().st_mtime == (package / "cli" / "__init__.py").stat().st_mtime
    modes = {path.stat().st_mode & 0o777 for path in (home.parent, home, home / "instar", copied.parent)}
    assert modes == {0o755}
    assert copied.stat().st_mode & 0o777 == 0o644


def test_the_same_version_is_copied_once_and_a_changed_one_anew(tmp_path: Path, package: Path) -> None:
    releases = Releases(tmp_path / "releases")
    home = releases.keep(package)
    assert releases.keep(package) == home
    # What runs from a copy needs none.
    assert releases.keep(home / "instar") == home
    (package / "cli" / "__init__.py").write_text("two = 2\n")
    assert releases.keep(package) != home
    assert (home / "instar/cli/__init__.py").read_text() == "one = 1\n"
    assert [path.name for path in (tmp_path / "releases").iterdir() if path.name.startswith(".")] == []


def test_the_last_few_stay(tmp_path: Path, package: Path) -> None:
    releases, homes = Releases(tmp_path / "releases"), []
    for number in range(6):
        (package / "__init__.py").write_text(f"number = {number}\n")
        homes.append(releases.keep(package))
        os.utime(homes[-1], (number, number))
    releases.prune(homes[1])
    assert sorted((tmp_path / "releases").iterdir()) == sorted([homes[1], *homes[3:]])


def test_no_room_is_a_sentence(tmp_path: Path, package: Path) -> None:
    (tmp_path / "releases").write_text("a file in the way")
    with pytest.raises(InstarError, match="cannot keep a copy of instar in"):
        Releases(tmp_path / "releases").keep(package)


def test_a_copy_runs_by_itself_and_imports_from_itself(tmp_path: Path) -> None:
    home = Releases(tmp_path / "releases").keep()
    done = subprocess.run([*way_back(home), "version", "--json"], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    program = (
        f"import instar, instar.cli; from pathlib import Path\n"
        f"from instar.supervisor.upgrade.release import import_from\n"
        f"import_from(Path({str(home)!r}))\n"
        "import instar.control.client, instar.cli._target\n"
        "print(instar.control.client.__file__); print(instar.cli._target.__file__)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert all(line.startswith(f"{home}/instar/") for line in done.stdout.split())
