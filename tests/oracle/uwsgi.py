"""The real uWSGI, as the reference."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest


def program() -> str | None:
    """The program beside the interpreter, else the one in PATH."""
    beside = Path(sys.executable).with_name("uwsgi")
    return str(beside) if beside.exists() else shutil.which("uwsgi")


needs_uwsgi = pytest.mark.skipif(program() is None, reason="needs the real uWSGI: pip install uwsgi")


class Real:
    """One instance that serves HTTP on a port of the kernel's choice."""

    def __init__(self, folder: Path, log: Path, process: subprocess.Popen[bytes]) -> None:
        self.folder = folder
        self._log = log
        self.process = process
        self.port = 0

    @property
    def log(self) -> str:
        """What it has written so far."""
        return self._log.read_text(errors="replace")

    def wait_until_it_serves(self) -> None:
        """Until its first worker has been spawned, and connections are queued."""
        end = time.monotonic() + 20
        while "spawned uWSGI worker 1" not in self.log:
            if self.process.poll() is not None or time.monotonic() > end:
                raise AssertionError(f"uwsgi does not serve ({self.process.poll()}):\n{self.log}")
            time.sleep(0.02)
        found = re.search(r"bound to TCP address 127.0.0.1:(\d+)", self.log)
        assert found, self.log
        self.port = int(found[1])

    def get(self, path: str) -> tuple[int, str]:
        """Status and body."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=10) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()


@contextlib.contextmanager
def running(folder: Path, options: Sequence[str], *, serves: bool = True) -> Iterator[Real]:
    """Run it in a folder. Nothing of it is left afterwards."""
    log = folder / "real.log"
    argv = [str(program()), "--master", "--http-socket", "127.0.0.1:0", *options]
    with log.open("wb") as output:
        process = subprocess.Popen(
            argv, cwd=folder, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True
        )
    real = Real(folder, log, process)
    try:
        if serves:
            real.wait_until_it_serves()
        yield real
    finally:
        # Its group, at once: an end that is asked for takes it a second.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
