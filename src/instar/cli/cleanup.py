"""`instar cleanup`."""

from __future__ import annotations

import asyncio
import os
from typing import Annotated

import typer

from instar.cli._format import print_json
from instar.cli._options import ConfigFile, Json, Name, StateDir
from instar.cli._target import find_state
from instar.errors import BusyError, InstarError

#: Seconds that requests get to end.
_PATIENCE = 10.0


def cleanup(
    after_stop: Annotated[
        bool,
        typer.Option(
            "--after-stop",
            help="As ExecStopPost of a unit: do nothing if the supervisor did not end by itself ($SERVICE_RESULT).",
        ),
    ] = False,
    timeout: Annotated[float, typer.Option(min=0, help="Seconds that open requests get to end.")] = _PATIENCE,
    json: Json = False,
    config: ConfigFile = None,
    name: Name = None,
    state_dir: StateDir = None,
) -> None:
    """End the generations that a dead supervisor left, when no other is going to adopt them.

    They finish their requests first. Where a supervisor runs, nothing is done: exit code 4. Jobs go on.

    \b
    Examples:
      instar cleanup
      instar cleanup --timeout 0
    """
    result = os.environ.get("SERVICE_RESULT", "success")
    if after_stop and result != "success":
        _say(json, [], f"the supervisor ended with {result}: what it left is for the next one")
        return
    try:
        ended = asyncio.run(_end(find_state(config, name, state_dir), timeout))
    except BusyError:
        if not after_stop:
            raise
        # Started again meanwhile.
        _say(json, [], "a supervisor runs: nothing to do")
        return
    _say(json, ended, "")


async def _end(root: os.PathLike[str], timeout: float) -> list[int]:
    """The generations that were ended. Raises BusyError, InstarError."""
    from pathlib import Path

    from instar.supervisor.leftovers import find_orphans, retire_all
    from instar.supervisor.statedir import OccupiedError, StateDir

    state = StateDir(Path(root))
    if not state.control.is_dir():
        return []
    try:
        state.lock()
    except OccupiedError as error:
        raise BusyError(f"cannot clean up: a supervisor runs in {state.root}; use `instar stop`") from error
    except OSError as error:
        raise InstarError(f"cannot clean up {state.root}: {error.strerror}; become the supervisor's user") from error
    orphans = find_orphans(state)
    silent = [orphan for orphan in orphans if orphan.hello is None]
    await retire_all([orphan for orphan in orphans if orphan.hello is not None], timeout)
    state.unlock()
    if silent:
        raise InstarError(
            f"cannot end the generation at {silent[0].path}: its zygote does not answer; end its processes with `kill`"
        )
    return [orphan.hello.generation for orphan in orphans if orphan.hello is not None]


def _say(json: bool, ended: list[int], why: str) -> None:
    if json:
        print_json({"ended": ended, "detail": why})
    elif ended:
        typer.echo(f"ended generation {', '.join(map(str, ended))}")
    else:
        typer.echo(why or "nothing was left")
