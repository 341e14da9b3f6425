"""A running Emperor with a directory of vassals, as an administrator sees it."""

from __future__ import annotations

import contextlib
import http.client
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import uuid
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from harness.control import Control
from harness.instance import INSTAR, Said
from harness.processes import MARK, alive, kill_all, marked
from harness.waiting import wait_for

UWSGI = next((str(path) for path in [Path(sys.executable).with_name("uwsgi")] if path.exists()), shutil.which("uwsgi"))
NO_UWSGI = "no uWSGI beside the interpreter or in PATH: pip install uwsgi (needs a C compiler)"

APPLICATION = """
import os, pathlib, sys, time
HERE = pathlib.Path(__file__).parent
VERSION = (HERE / "version").read_text().strip()
if VERSION == "broken":
    raise RuntimeError("a broken release")
if VERSION == "slow":
    time.sleep(1)
def application(environ, start_response):
    if VERSION == "sick" or (HERE / "sick").exists():
        start_response("500 Oh", []); return [b"sick"]
    start_response("200 OK", [("Content-Type", "text/plain")])
    import uwsgi
    return [f"{VERSION} {uwsgi.masterpid()} {os.getpid()}".encode()]
def build():
    return application
"""
MULE = """
import os, pathlib, time, uwsgi
log = open(pathlib.Path(__file__).with_name("mules.log"), "a", buffering=1)
while True:
    log.write(f"{time.time():.4f} {uwsgi.mule_id()} {os.getpid()}\\n"); time.sleep(0.01)
"""


class EmperorRun:
    """One Emperor. `clean_up` ends every process of it and of its vassals."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.vassals = folder / "vassals"
        self.server = folder / "server"
        for path in (self.vassals, self.server):
            path.mkdir()
        self.state = folder / "state"
        self.pool_port, self.http_port = free_port(), free_port()
        self._mark = uuid.uuid4().hex
        self.output = folder / "emperor.out"
        self.process: subprocess.Popen[bytes] | None = None
        self.deploy("one")
        (self.server / "app.py").write_text(APPLICATION)
        (self.server / "mule.py").write_text(MULE)

    def deploy(self, version: str) -> None:
        """The release that the next boot finds."""
        (self.server / "version").write_text(version)

    def write(self, name: str, text: str) -> Path:
        """Write a vassal's file in one step, as a deploy tool does."""
        new = self.folder / name
        new.write_text(text)
        new.replace(self.vassals / name)
        return self.vassals / name

    def pool(self, name: str = "pool.yml", remark: str = "") -> None:
        """The recipe's pool."""
        self.write(
            name,
            f"uwsgi:\n  {remark}\n  master: true\n  http: 127.0.0.1:{self.http_port}\n"
            f"  http-to: 127.0.0.1:{self.pool_port}\n  zerg-pool: {self.folder}/pool.sock:127.0.0.1:{self.pool_port}\n",
        )

    def zergling(self, name: str = "app.yml", *, more: str = "") -> None:
        """The recipe's zergling."""
        self.write(
            name,
            f"uwsgi:\n  zerg: {self.folder}/pool.sock\n  socket: 127.0.0.1:0\n  chdir: {self.server}\n"
            f"  master: true\n  processes: 2\n  threads: 2\n  module: app:build()\n  pythonpath: {self.server}\n{more}",
        )

    @property
    def environment(self) -> dict[str, str]:
        """Of the Emperor, its vassals and the commands."""
        inherited = {key: value for key, value in os.environ.items() if not key.startswith(("PYTEST", "COV"))}
        return {**inherited, "INSTAR_STATE_DIR": str(self.state), MARK: self._mark, "NO_COLOR": "1"}

    def start(self, *options: str) -> EmperorRun:
        """Start; without options as `instar run DIR`."""
        argv = [str(INSTAR), "uwsgi", "--emperor", str(self.vassals), "--emperor-freq", "1", *options]
        if not options:
            argv = [str(INSTAR), "run", str(self.vassals)]
        self.start_program(argv)
        wait_for("the Emperor answers", self._answers, 20.0)
        return self

    def start_program(self, argv: Sequence[str | Path | None]) -> None:
        """Start whatever is the Emperor."""
        with self.output.open("ab") as output:
            self.process = subprocess.Popen(
                [str(item) for item in argv],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=self.environment,
                cwd=self.folder,
            )

    def _answers(self) -> bool:
        assert self.process is not None
        if (code := self.process.poll()) is not None:
            raise AssertionError(f"the Emperor ended with {code}:\n{self.said()}")
        with contextlib.suppress(OSError, ValueError):
            return bool(self.control.get("/v1/status")["pid"] == self.process.pid)
        return False

    def kill(self) -> None:
        """SIGKILL for the Emperor alone."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def stop(self, limit: float = 40.0) -> int:
        """SIGTERM, and its exit code."""
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(limit)

    def command(self, *arguments: str, limit: float = 90.0) -> Said:
        """Run a command of instar to its end."""
        environment = {key: value for key, value in self.environment.items() if key != MARK}
        done = subprocess.run(
            [str(INSTAR), *arguments], capture_output=True, text=True, env=environment, cwd=self.folder, timeout=limit
        )
        return Said(done.returncode, done.stdout, done.stderr)

    def status(self) -> dict[str, dict[str, Any]]:
        """The vassals by name."""
        return {item["name"]: item for item in self.control.get("/v1/status")["vassals"]}

    @property
    def control(self) -> Control:
        """Its control socket."""
        (folder,) = (self.state / ".emperors").iterdir()
        return Control(folder)

    def wait_state(self, name: str, *states: str, limit: float = 40.0) -> dict[str, Any]:
        """Wait until a vassal is in one of these states; how it is then."""
        found: dict[str, Any] = {}

        def check() -> bool:
            nonlocal found
            found = self.status().get(name, {})
            return found.get("state") in states

        try:
            wait_for(f"{name} {states}", check, limit, 0.1)
        except AssertionError as error:
            raise AssertionError(f"{error}; {found}\n{self.said()}") from None
        return found

    def get(self, port: int | None = None) -> tuple[int, str]:
        """A request through the pool's router."""
        connection = http.client.HTTPConnection("127.0.0.1", port or self.http_port, timeout=20)
        try:
            connection.request("GET", "/")
            response = connection.getresponse()
            return response.status, response.read().decode()
        finally:
            connection.close()

    def said(self) -> str:
        """What the Emperor wrote."""
        return self.output.read_text(errors="replace")[-8000:]

    def left(self) -> list[Any]:
        """Processes that live."""
        return marked(self._mark)

    def clean_up(self) -> list[Any]:
        """Stop in order, then by force; what a stop in order left behind."""
        if self.process is not None and self.process.poll() is None:
            try:
                self.stop()
            except subprocess.TimeoutExpired:
                self.kill()
        return kill_all(self._mark)


class Load:
    """Requests through the router, one connection each, until told to stop."""

    def __init__(self, run: EmperorRun, threads: int = 3) -> None:
        self.answers: Counter[str] = Counter()
        self.failures: list[str] = []
        self.longest = 0.0
        self._run = run
        self._ending = False
        self._threads = [threading.Thread(target=self._go, daemon=True) for _ in range(threads)]

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *unused: object) -> None:
        self._ending = True
        for thread in self._threads:
            thread.join(30)

    def _go(self) -> None:
        while not self._ending:
            began = time.monotonic()
            try:
                status, body = self._run.get()
                if status != 200:
                    self.failures.append(f"{status} {body[:60]}")
                else:
                    self.answers[body.split()[0]] += 1
            except (OSError, http.client.HTTPException) as error:
                self.failures.append(repr(error))
            self.longest = max(self.longest, time.monotonic() - began)
            time.sleep(0.005)


def free_port() -> int:
    """A port that the kernel had free a moment ago."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


__all__ = ["NO_UWSGI", "UWSGI", "EmperorRun", "Load", "alive", "free_port"]
