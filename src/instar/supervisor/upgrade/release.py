"""Private copies of the versions of instar that run here.

`pip install` writes over the package of the running supervisor. With a copy, the way back to it stays open, and what it
imports late comes from the version that runs.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import instar
from instar.errors import InstarError

#: Copies that stay besides the one in use: generations that the last versions have booted may use them.
_KEEP = 3
_START = Path("instar/cli/_start.py")
_CHANGEOVER = Path("instar/supervisor/upgrade/changeover.py")


class Releases:
    """Owner of a folder in which each copy has a folder of its own, named after version and content.

    The copies hold no secrets. Whatever goes back boots generations from its copy, so the application's user has to
    read them; only the supervisor's user can write them.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def keep(self, package: Path | None = None) -> Path:
        """The folder that holds a copy of `package`, by default of what runs. Raises InstarError.

        The folder is what belongs into `sys.path`.
        """
        package = package or Path(instar.__file__).parent
        if package.parent.parent == self._folder:
            return package.parent
        try:
            home = self._folder / f"{instar.__version__}-{_digest(package)}"
            if not home.exists():
                self._copy(package, home)
            # The order in which they are forgotten.
            os.utime(home)
        except OSError as error:
            raise InstarError(
                f"cannot keep a copy of instar in {self._folder}: {error.strerror or error}; make room there"
            ) from error
        return home

    def _copy(self, package: Path, home: Path) -> None:
        self._folder.mkdir(mode=0o755, exist_ok=True)
        self._folder.chmod(0o755)
        temporary = home.with_name(f".{home.name}.{os.getpid()}")
        try:
            # With their times: the compiled files go by them.
            shutil.copytree(package, temporary / package.name)
            for folder, _, files in os.walk(temporary):
                Path(folder).chmod(0o755)
                for name in files:
                    Path(folder, name).chmod(0o644)
            temporary.rename(home)
        except OSError:
            shutil.rmtree(temporary, ignore_errors=True)
            raise

    def prune(self, used: Path) -> None:
        """Delete all but the one in use and the last few."""
        with contextlib.suppress(OSError):
            found = sorted(self._copies(), key=lambda path: path.stat().st_mtime, reverse=True)
            spare = [path for path in found if path != used]
            for path in spare[_KEEP:]:
                shutil.rmtree(path, ignore_errors=True)

    def _copies(self) -> Iterator[Path]:
        return (path for path in self._folder.iterdir() if not path.name.startswith("."))


def _digest(package: Path) -> str:
    total = hashlib.sha256()
    for path in sorted(package.rglob("*.py")):
        total.update(f"{path.relative_to(package)}\0".encode())
        total.update(hashlib.sha256(path.read_bytes()).digest())
    return total.hexdigest()[:12]


def import_from(home: Path) -> None:
    """Import whatever of instar is imported from now on from the copy at `home`."""
    for name, module in list(sys.modules.items()):
        if name.partition(".")[0] == "instar" and hasattr(module, "__path__"):
            module.__path__ = [str(home.joinpath(*name.split(".")))]


def way_back(home: Path) -> list[str]:
    """The program that starts the copy at `home` with this interpreter; arguments follow."""
    # -P: nothing from the folder of the script.
    return [sys.executable, "-P", str(home / _START)]


def changeover_script(home: Path) -> Path:
    """The script that stands between this version and the next."""
    return home / _CHANGEOVER
