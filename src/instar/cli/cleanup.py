"""`instar cleanup`."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from instar.cli._format import print_json
from instar.cli._options import ConfigFile, Json, Name, StateDir
from instar.cli._target import find_state
from instar.errors import BusyError, InstarError

if TYPE_CHECKING:
    from instar.config import Config

#: Entries of the journal that tell how far a supervisor's life has got.
_LIFE = ("start", "stopping", "stop")


def cleanup(
    after_stop: Annotated[
        bool,
        typer.Option(
            "--after-stop",
            help="For ExecStopPost of a systemd unit: do nothing when the supervisor crashed ($SERVICE_RESULT), since "
            "the next one adopts what it left.",
        ),
    ] = False,
    now: Annotated[bool, typer.Option("--now", help="Cut open connections instead of letting them finish.")] = False,
    json: Json = False,
    config: ConfigFile = None,
    name: Name = None,
    state_dir: StateDir = None,
) -> None:
    """End what a supervisor that died has left, when no other is going to adopt it.

    Open requests are finished, for restart.drain_timeout at most. Where a supervisor runs, nothing is done (exit code
    4). Jobs that outlive their handlers go on.

    \b
    Examples:
      instar cleanup
      instar cleanup --now
    """
    state = find_state(config, name, state_dir)
    if after_stop and (reason := _left_to_the_next(state)):
        return _say(json, None, reason)
    if not (state / "control").is_dir():
        return _say(json, None, "nothing was left")
    from instar.supervisor.statedir import OccupiedError

    try:
        ended = asyncio.run(_end(_settings(config, name, state), now))
    except OccupiedError as error:
        if after_stop:  # started again meanwhile
            return _say(json, None, "a supervisor runs: there is nothing to clean up")
        raise BusyError(f"cannot clean up: a supervisor runs in {state}; use `instar stop`") from error
    except InstarError as error:
        raise InstarError(f"cannot clean up {state}: {error}") from error
    return _say(json, ended, "nothing was left" if ended is None else f"ended generation {ended}")


def _left_to_the_next(state: Path) -> str:
    """Why nothing is to be ended after this end of the service (systemd.exec(5), $SERVICE_RESULT); empty: it is."""
    from instar.supervisor.journal import read

    result = os.environ.get("SERVICE_RESULT", "success")
    if result == "success":
        return ""
    steps = [entry["op"] for entry in read(state / "control/journal.jsonl") if entry["op"] in _LIFE]
    # It crashed on its way out: after `systemctl stop` there is no next one.
    if steps[-1:] == ["stopping"]:
        return ""
    return f"the supervisor ended by {result}: what it left is for the next one"


def _settings(config: Path | None, name: str | None, state: Path) -> Config:
    """The configuration for the supervisor that adopts; a file that is broken by now does not keep it from its work."""
    from instar.cli._target import DEFAULT_FILE, name_in
    from instar.config import load
    from instar.config.loading import checked
    from instar.errors import ConfigError

    os.environ["INSTAR_STATE_DIR"] = str(state)
    # What happens is in the kept log; standard output is for the answer.
    overrides = {"log.stdout": False, **({"app.name": name} if name else {})}
    try:
        if config or DEFAULT_FILE.is_file():
            return load(config, overrides=overrides)
    except ConfigError:
        pass
    minimal = {"app": {"name": name or name_in(config), "target": "unknown:unknown"}, "log": {"stdout": False}}
    return checked(minimal, base=Path.cwd(), name=str(state))


async def _end(config: Config, now: bool) -> int | None:
    """The generation that served and has ended. Raises InstarError."""
    from instar.control.assembly import assembled

    async with assembled(config, lambda: config) as supervisor:
        return await supervisor.wind_up(now)


def _say(json: bool, ended: int | None, text: str) -> None:
    if json:
        print_json({"ended": ended, "detail": text})
    else:
        typer.echo(text)
