"""How each server is restarted, as its documentation tells an operator to, and when a restart is over."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bench.common.http import Answer
from bench.common.paths import INSTAR_VENV
from bench.common.process import Server, ServerError
from bench.common.servers import instar_env

#: A restart that takes longer has failed.
LIMIT = 60.0


@dataclasses.dataclass
class Restart:
    """Times in seconds since the restart was asked for."""

    switched: float
    """Until new connections were answered by the new application only."""
    total: float
    """Until every process that answered before was gone, too."""
    stages: dict[str, float] = dataclasses.field(default_factory=dict)
    """instar only: what `instar restart --json` tells."""


Action = Callable[[Server, Callable[[], None]], dict[str, float]]


def perform(server: Server, action: Action) -> Restart:
    """Restart and wait until it is over. Raises ServerError."""
    old = server.answers(40)
    if not old:
        raise ServerError(f"{server.name} does not answer before the restart: {server.log_tail()}")
    begun = time.monotonic()
    watch = _Watch(server, old, begun)
    stages = action(server, watch.step)
    while not watch.over():
        if time.monotonic() - begun > LIMIT:
            raise ServerError(f"{server.name}: the restart did not end in {LIMIT:.0f} s: {server.log_tail()}")
        watch.step()
    assert watch.switched is not None
    return Restart(watch.switched, time.monotonic() - begun, stages)


class _Watch:
    """Looks on new connections whether the new application answers, and whether the old processes are gone."""

    #: This many answers in a row by new loads of the application mean that the switch is complete.
    ENOUGH = 20

    def __init__(self, server: Server, old: list[Answer], begun: float) -> None:
        self._server = server
        self._begun = begun
        self._old_boots = {answer.boot for answer in old}
        self._old_pids = {answer.pid for answer in old}
        self._first: float | None = None
        self._row = 0
        self.switched: float | None = None

    def step(self) -> None:
        """One probe, and a short pause."""
        for answer in self._server.answers(1):
            if answer.boot in self._old_boots:
                self._old_pids.add(answer.pid)
                self._first, self._row = None, 0
                continue
            self._first = self._first or time.monotonic() - self._begun
            self._row += 1
            if self._row == self.ENOUGH:
                self.switched = self._first
        time.sleep(0.01)

    def over(self) -> bool:
        return self.switched is not None and not any(Path(f"/proc/{pid}").exists() for pid in self._old_pids)


def hup(server: Server, step: Callable[[], None]) -> dict[str, float]:
    """SIGHUP to the master: gunicorn, uvicorn, granian, hypercorn, uWSGI."""
    os.kill(server.master, signal.SIGHUP)
    return {}


def chain(server: Server, step: Callable[[], None]) -> dict[str, float]:
    """uWSGI: one worker after the other (needs lazy-apps)."""
    with open(server.directory / "fifo", "w") as fifo:
        fifo.write("c")
    return {}


def usr2_term(server: Server, step: Callable[[], None]) -> dict[str, float]:
    """gunicorn: a second master beside the first (USR2); once its workers run, the first gets TERM."""
    pidfile = server.directory / "pid"
    workers = len(_children(server.master))
    os.kill(server.master, signal.SIGUSR2)
    new = _wait_pid(Path(f"{pidfile}.2"), server)
    _wait_workers(new, workers, server, step)
    os.kill(server.master, signal.SIGTERM)
    server.master = new
    _wait_promotion(pidfile, new, server)
    return {}


def _children(pid: int) -> set[int]:
    with contextlib.suppress(OSError):
        return {int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()}
    return set()


def _wait_pid(path: Path, server: Server) -> int:
    limit = time.monotonic() + LIMIT
    while time.monotonic() < limit:
        with contextlib.suppress(OSError, ValueError):
            return int(path.read_text())
        time.sleep(0.02)
    raise ServerError(f"{server.name}: the new master wrote no pid file: {server.log_tail()}")


def _wait_workers(master: int, count: int, server: Server, step: Callable[[], None]) -> None:
    """Until all workers of the new master answer: an operator would look at the log."""
    limit = time.monotonic() + LIMIT
    met: set[int] = set()
    while time.monotonic() < limit:
        met |= _children(master) & {answer.pid for answer in server.answers(5)}
        if len(met) >= count:
            return
        step()
    raise ServerError(f"{server.name}: the new workers do not answer: {server.log_tail()}")


def _wait_promotion(pidfile: Path, master: int, server: Server) -> None:
    limit = time.monotonic() + LIMIT
    while time.monotonic() < limit:
        if not Path(f"{pidfile}.2").exists() and _wait_pid(pidfile, server) == master:
            return
        time.sleep(0.02)
    raise ServerError(f"{server.name}: the new master was not promoted: {server.log_tail()}")


def instar(server: Server, step: Callable[[], None]) -> dict[str, float]:
    """`instar restart --json`, which returns when the old generation has drained."""
    config = str(server.directory / "instar.toml")
    argv = [str(INSTAR_VENV / "bin" / "instar"), "restart", "--json", "-c", config]
    env = {**os.environ, **instar_env(server.directory)}
    command = subprocess.Popen(argv, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    while command.poll() is None:
        step()
    output, errors = command.communicate()
    answer = _last_object(output)
    if command.returncode or answer.get("outcome") != "done":
        raise ServerError(f"instar restart: exit code {command.returncode}: {answer.get('error') or errors[-300:]}")
    stages = {stage["stage"]: float(stage["seconds"] or 0) for stage in answer["stages"]}
    return {**stages, "command": float(answer.get("seconds") or 0)}


def _last_object(output: str) -> dict[str, Any]:
    lines = [line for line in output.splitlines() if line.startswith("{")]
    return json.loads(lines[-1]) if lines else {}
