"""Start and stop of one server and of everything that it starts; its memory and CPU time."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path

from bench.common.http import HOST, Answer, RequestError, probe
from bench.common.paths import APPS

MARK = "BENCH_SERVER"
TICK = os.sysconf("SC_CLK_TCK")


class ServerError(Exception):
    """A server did not start, restart or stop. The message says why."""


def autogroup(pid: int) -> str:
    """The scheduling group of a process (sched_autogroup); empty where the kernel has none."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/autogroup").read_text().split()[0]
    return ""


def free_port() -> int:
    """A TCP port that nobody listens on."""
    with socket.socket() as sock:
        sock.bind((HOST, 0))
        return int(sock.getsockname()[1])


class Tree:
    """The processes of one server, known by a mark in their environment: it survives exec, setsid and reparenting."""

    def __init__(self) -> None:
        self.token = secrets.token_hex(8)
        self._mark = f"{MARK}={self.token}".encode()

    def pids(self) -> list[int]:
        """All live processes (threads and zombies excluded)."""
        return [int(entry.name) for entry in os.scandir("/proc") if entry.name.isdigit() and self._owns(entry.path)]

    def _owns(self, path: str) -> bool:
        try:
            return self._mark in Path(path, "environ").read_bytes()
        except OSError:
            return False

    def pss(self) -> float:
        """Proportional set size of the tree, in MB: shared memory is counted once in all."""
        total = 0
        for pid in self.pids():
            with contextlib.suppress(OSError):
                rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
                total += sum(int(line.split()[1]) for line in rollup.splitlines() if line.startswith("Pss:"))
        return total / 1024

    def cpu_seconds(self) -> dict[int, float]:
        """User and system time of each live process."""
        found = {}
        for pid in self.pids():
            with contextlib.suppress(OSError):
                fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
                found[pid] = (int(fields[11]) + int(fields[12])) / TICK
        return found

    def kill(self) -> None:
        """SIGKILL to whatever is left."""
        while pids := self.pids():
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.02)


class Server:
    """One running server on a port of its own, with a directory for its files. Each has a session of its own.

    With sched_autogroup, CPU time is shared out between sessions before it is shared between processes; a session for
    each server treats all of them alike.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.port = free_port()
        self.directory = Path(tempfile.mkdtemp(prefix="bench-"))
        self.tree = Tree()
        #: The process that takes signals; gunicorn's USR2 changes it.
        self.master = 0
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, argv: list[str], env: dict[str, str], timeout: float = 60.0) -> None:
        """Start and wait until the application answers. Raises ServerError with the end of its output."""
        variables = {**os.environ, **env, MARK: self.tree.token, "PYTHONDONTWRITEBYTECODE": "1"}
        variables.pop("PYTHONPATH", None)
        with open(self.directory / "output", "wb") as output:
            self._process = subprocess.Popen(
                argv, cwd=APPS, env=variables, stdin=subprocess.DEVNULL, stdout=output, stderr=output,
                start_new_session=True,
            )  # fmt: skip
        self.master = self._process.pid
        self._wait_ready(time.monotonic() + timeout)

    def _wait_ready(self, limit: float) -> None:
        assert self._process
        while time.monotonic() < limit:
            if self._process.poll() is not None:
                raise ServerError(f"{self.name} exited ({self._process.returncode}): {self.log_tail()}")
            with contextlib.suppress(OSError, RequestError):
                probe(self.port)
                return
            time.sleep(0.05)
        raise ServerError(f"{self.name} does not answer: {self.log_tail()}")

    def log_tail(self) -> str:
        """The last lines of its output."""
        lines = (self.directory / "output").read_text(errors="replace").splitlines()
        return " / ".join(line.strip() for line in lines[-5:] if line.strip())

    def answers(self, count: int) -> list[Answer]:
        """What `count` new connections are answered; failures are left out."""
        found = []
        for _ in range(count):
            with contextlib.suppress(OSError, RequestError):
                found.append(probe(self.port))
        return found

    def worker_pids(self, count: int, timeout: float = 20.0) -> set[int]:
        """The processes that answer, once `count` of them have been met. Raises ServerError."""
        limit = time.monotonic() + timeout
        found: set[int] = set()
        while len(found) < count and time.monotonic() < limit:
            found.update(answer.pid for answer in self.answers(5))
        if len(found) < count:
            raise ServerError(f"{self.name}: only {len(found)} of {count} workers answer")
        return found

    def stop(self, timeout: float = 5.0) -> None:
        """SIGTERM to the master, SIGKILL for what is left after `timeout` seconds; removes its directory."""
        # Without one it has not been started: to signal process 0 is to signal ourselves (kill(2)).
        if self.master:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.master, signal.SIGTERM)
        limit = time.monotonic() + timeout
        while self.tree.pids() and time.monotonic() < limit:
            if self._process:
                self._process.poll()
            time.sleep(0.05)
        self.tree.kill()
        if self._process:
            self._process.wait()
        shutil.rmtree(self.directory, ignore_errors=True)
