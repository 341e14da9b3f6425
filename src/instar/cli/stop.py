"""`instar stop`."""

from __future__ import annotations

import os
import select
import sys
import time
from collections.abc import Callable
from typing import Annotated, Any
from urllib.parse import quote

import typer

from instar.cli._emperor import EmperorDir, VassalName, find_emperor
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
    vassal: VassalName = None,
    now: Annotated[bool, typer.Option("--now", help="Cut open connections instead of letting them finish.")] = False,
    json: Json = False,
    config: ConfigFile = None,
    name: Name = None,
    state_dir: StateDir = None,
    emperor: EmperorDir = None,
) -> None:
    """Stop the application and its supervisor; returns when both are gone.

    Open requests are finished, for restart.drain_timeout at most. Run it again with --now to cut that short.

    With the name of a vassal: that of an Emperor, which stays stopped until `instar restart VASSAL` or a touch of its
    file. With --emperor alone: the Emperor and all its vassals.

    \b
    Examples:
      instar stop
      instar stop --now
      instar stop shop
      instar stop --emperor /etc/mysites
    """
    if vassal is not None:
        return _stop_vassal(find_emperor(emperor), vassal, now, json)
    client = find_client(config, name, state_dir) if emperor is None else find_emperor(emperor)
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
    return None


def _stop_vassal(client: Client, vassal: str, now: bool, json: bool) -> None:
    started = time.monotonic()
    answer = client.post(f"/v1/vassals/{quote(vassal, safe='')}/stop", {"now": now})
    if json:
        print_json({**answer, "seconds": round(time.monotonic() - started, 3)})
    else:
        print(f"{answer['vassal']} stopped in {seconds(time.monotonic() - started)}")


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
        workers = [worker for generation in answer.get("generations", ()) for worker in generation.get("workers", [])]
        open_connections = sum(worker.get("connections") or 0 for worker in workers)
        took = seconds(time.monotonic() - self._started)
        text = f"stopping: {open_connections} connections still open ({took})"
        if sys.stderr.isatty():
            print(f"\r{text}\x1b[K", end="", file=sys.stderr, flush=True)
        elif time.monotonic() - self._said >= SAY:
            self._said = time.monotonic()
            print(text, file=sys.stderr, flush=True)
