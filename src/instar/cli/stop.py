"""`instar stop`."""

from __future__ import annotations

import os
import select
import sys
import time
from collections.abc import Callable
from typing import Annotated, Any

import typer

from instar.cli._format import print_json, seconds
from instar.cli._options import ConfigFile, Json, Name, StateDir
from instar.cli._target import find_client
from instar.control.client import Client
from instar.errors import InstarError, NoSupervisorError

#: Seconds between two looks at the supervisor that stops.
LOOK = 0.25
#: Seconds between two progress lines where there is no terminal.
SAY = 5.0


def stop(
    now: Annotated[bool, typer.Option("--now", help="Cut open connections instead of letting them finish.")] = False,
    json: Json = False,
    config: ConfigFile = None,
    name: Name = None,
    state_dir: StateDir = None,
) -> None:
    """Stop the application and its supervisor; returns when both are gone.

    Open requests are finished, for restart.drain_timeout at most. Run it again with --now to cut that short.

    \b
    Examples:
      instar stop
      instar stop --now
    """
    client = find_client(config, name, state_dir)
    pid = int(client.get("/v1/status")["pid"])
    started = time.monotonic()
    gone = _watch_process(pid, client)
    client.post("/v1/stop", {"now": now})
    try:
        _wait(client, gone, say=None if json else _Progress(started))
    except KeyboardInterrupt:
        raise InstarError("cannot wait any longer: interrupted; the supervisor goes on stopping") from None
    took = time.monotonic() - started
    if json:
        print_json({"stopped": True, "pid": pid, "seconds": round(took, 3)})
    else:
        print(f"stopped in {seconds(took)}")


def _watch_process(pid: int, client: Client) -> Callable[[float], bool]:
    """A function that waits some seconds for the supervisor's end and says whether it is gone."""
    try:
        descriptor = os.pidfd_open(pid)
    except OSError:  # it lives in another PID namespace: gone means that nobody answers
        return lambda limit: _unreachable(client, limit)
    return lambda limit: bool(select.select([descriptor], [], [], limit)[0])


def _unreachable(client: Client, limit: float) -> bool:
    time.sleep(limit)
    try:
        client.get("/v1/status")
    except NoSupervisorError:
        return True
    return False


def _wait(client: Client, gone: Callable[[float], bool], *, say: _Progress | None) -> None:
    while not gone(LOOK):
        if say is not None:
            try:
                say(client.get("/v1/status"))
            except NoSupervisorError:  # it no longer answers; its process ends in a moment
                continue


class _Progress:
    """Says what the stop waits for: one line that is rewritten, or now and then a new one."""

    def __init__(self, started: float) -> None:
        self._started = started
        self._said = started

    def __call__(self, answer: dict[str, Any]) -> None:
        workers = [worker for generation in answer["generations"] for worker in generation.get("workers", [])]
        open_connections = sum(worker.get("connections") or 0 for worker in workers)
        took = seconds(time.monotonic() - self._started)
        text = f"stopping: {open_connections} connections still open ({took})"
        if sys.stderr.isatty():
            print(f"\r{text}\x1b[K", end="", file=sys.stderr, flush=True)
        elif time.monotonic() - self._said >= SAY:
            self._said = time.monotonic()
            print(text, file=sys.stderr, flush=True)
