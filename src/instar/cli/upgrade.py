"""`instar upgrade`."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from instar.cli._options import ConfigFile, Json, Name, StateDir
from instar.cli._stages import follow_handover
from instar.cli._target import find_client
from instar.control.client import Client
from instar.errors import ConfigError, InstarError, NoSupervisorError
from instar.supervisor.upgrade.changeover import BACK_LIMIT

#: Seconds between two looks for the result.
_LOOK_EVERY = 0.1
#: Beyond the new version's time and the old one's (seconds).
_MARGIN = 30.0


def upgrade(
    to: Annotated[
        Path | None,
        typer.Option(metavar="PROGRAM", help="The `instar` of another environment, for this and later upgrades."),
    ] = None,
    timeout: Annotated[
        str | None,
        typer.Option(
            metavar="DURATION",
            help="The new version goes back if it isn't ready by then.",
            show_default="30s, or five times what its self-test took",
        ),
    ] = None,
    json: Json = False,
    config: ConfigFile = None,
    name: Name = None,
    state_dir: StateDir = None,
) -> None:
    """Replace the running supervisor by the version of instar that is installed now.

    The process stays the same, and so do the sockets, the generation that serves and the handlers: no request is
    dropped, and the application isn't restarted. The new version is tested first. If it fails then, or can't start,
    hangs or crashes afterwards, the old version runs on: exit code 3. SIGUSR2 does the same.

    \b
    Examples:
      pip install --upgrade instar && instar upgrade
      instar upgrade --to /opt/instar-2/bin/instar
      instar upgrade --json | jq .version
    """
    limit = None if timeout is None else _seconds(timeout)
    client = find_client(config, name, state_dir)
    body = {"program": str(to.absolute()) if to else None, "limit": limit}
    raise typer.Exit(follow_handover(_events(client, body), what="upgrade", as_json=json))


def _seconds(text: str) -> float:
    from instar.config.units import parse_duration

    try:
        limit = float(parse_duration(text))
    except ValueError as error:
        raise ConfigError(f"cannot use --timeout {text}: the value {error}") from error
    if limit <= 0:
        raise ConfigError(f"cannot use --timeout {text}: it must be more than nothing")
    return limit


def _events(client: Client, body: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The events of the old version, and the result from whichever version runs in the end."""
    number, limit = None, 0.0
    for event in client.stream("POST", "/v1/upgrade", body):
        if event["event"] == "exec":
            number, limit = event["op"], event["limit"]
        else:
            yield event
    if number is not None:
        yield {"event": "stage", "stage": "start", "state": "started", "seconds": 0.0}
        result = _result(client, number, limit + max(limit, BACK_LIMIT) + _MARGIN)
        last = result["stages"][-1] if result["stages"] else {}
        if last.get("stage") == "start":
            yield {"event": "stage", **last}
        yield {"event": "result", **result}


def _result(client: Client, number: int, limit: float) -> dict[str, Any]:
    """What the history says of an upgrade, as soon as it does. Raises InstarError."""
    end = time.monotonic() + limit
    while time.monotonic() < end:
        try:
            entries = client.get("/v1/history?limit=20")["entries"]
        except NoSupervisorError:
            # Nobody answers in between.
            entries = []
        for entry in entries:
            if entry.get("began") == number and entry["kind"] == "upgrade":
                found: dict[str, Any] = entry
                return found
        time.sleep(_LOOK_EVERY)
    raise InstarError(
        f"cannot tell how the upgrade ended: no supervisor has said so within {limit:g} s; see `instar status` and "
        "`instar history`"
    )
