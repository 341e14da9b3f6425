"""The real uWSGI, as a process of its own."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from harness.project import TESTS
from harness.waiting import wait_for


def program() -> Path:
    """The program; skips the test where there is none."""
    folder = str(Path(sys.executable).parent)
    found = shutil.which("uwsgi", path=f"{folder}:{os.environ.get('PATH', '')}")
    if found is None:
        pytest.skip("needs the real uWSGI: make test builds it (with a compiler), or pip install uwsgi")
    return Path(found)


@contextmanager
def uwsgi(path: Path, module: str, *options: str) -> Iterator[Path]:
    """Serve `module` on the UNIX socket `path`; the environ that its options make is what tests compare with."""
    argv = [str(program()), "--uwsgi-socket", str(path), "--module", module, "--pythonpath", str(TESTS)]
    home = ["--home", sys.prefix, "--need-app", "--die-on-term", "--master"]
    with path.with_suffix(".log").open("wb") as log:
        process = subprocess.Popen([*argv, *home, *options], stdout=log, stderr=log)
    try:
        wait_for("uWSGI listens", lambda: _listens(process, path))
        yield path
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(10)


def _listens(process: subprocess.Popen[bytes], path: Path) -> bool:
    if process.poll() is not None:
        raise AssertionError(f"uWSGI ended: {path.with_suffix('.log').read_text()[-3000:]}")
    with socket.socket(socket.AF_UNIX) as sock:
        return sock.connect_ex(str(path)) == 0
