"""`instar rollback`."""

from __future__ import annotations

import typer

from instar.cli._options import ConfigFile, Json, Name, StateDir
from instar.cli._stages import follow_handover
from instar.cli._target import find_client


def rollback(json: Json = False, config: ConfigFile = None, name: Name = None, state_dir: StateDir = None) -> None:
    """Go back to the generation before.

    Takes milliseconds while that generation is kept (restart --keep-old); otherwise its release is booted again,
    which works as far as its folder is still as it was.

    \b
    Examples:
      instar rollback
    """
    events = find_client(config, name, state_dir).stream("POST", "/v1/rollback", {})
    raise typer.Exit(follow_handover(events, what="rollback", as_json=json))
