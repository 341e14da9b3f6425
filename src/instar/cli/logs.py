"""`instar logs`."""

from __future__ import annotations

import json as jsonlib
import sys
import urllib.parse
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from instar.cli._emperor import EmperorDir, VassalName, find_emperor
from instar.cli._options import ConfigFile, Name, StateDir
from instar.cli._target import find_state
from instar.control.client import Client
from instar.errors import NoSupervisorError
from instar.supervisor.logrecord import LogRecord


def logs(
    vassal: VassalName = None,
    follow: Annotated[bool, typer.Option("-f", "--follow", help="Go on with new lines until Ctrl-C.")] = False,
    lines: Annotated[int, typer.Option("-n", "--lines", min=0, help="How many past lines to show.")] = 50,
    generation: Annotated[
        int | None, typer.Option("-g", "--generation", min=1, help="Only lines of this generation.", show_default="all")
    ] = None,
    role: Annotated[
        str | None,
        typer.Option("-r", "--role", help="Only lines of these processes: zygote, web, web.2 …", show_default="all"),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print each line as a JSON object.")] = False,
    config: ConfigFile = None,
    name: Name = None,
    state_dir: StateDir = None,
    emperor: EmperorDir = None,
) -> None:
    """Show what the processes wrote to standard output and standard error, each line with its origin.

    When no supervisor runs, the lines that the last one kept are shown. With the name of a vassal or with --emperor:
    what an Emperor's vassals wrote.

    \b
    Examples:
      instar logs -f
      instar logs -n 200 --generation 7 --role web.1
      instar logs shop.toml -f
      instar logs --json | jq -r .text
    """
    if vassal is not None or emperor is not None:
        client = find_emperor(emperor)
        role = role if vassal is None else f"vassal.{_file_name(client, vassal)}"
        state = client.path.parent.parent
    else:
        state = find_state(config, name, state_dir)
    query = {"lines": lines, "follow": int(follow), "generation": generation, "role": role}
    text = urllib.parse.urlencode({key: value for key, value in query.items() if value is not None})
    try:
        _show(Client(state).stream("GET", f"/v1/logs?{text}", None), as_json=json)
    except NoSupervisorError:
        folder = state / "control/log"
        if follow or not folder.is_dir():
            raise
        _show(_kept(folder, lines, generation, role), as_json=json)
        print("instar: no supervisor runs; these are the last lines that it kept", file=sys.stderr)
    except KeyboardInterrupt:
        return


def _file_name(client: Client, vassal: str) -> str:
    try:
        return str(client.get(f"/v1/vassals/{urllib.parse.quote(vassal, safe='')}")["name"])
    except NoSupervisorError:  # what it kept is found by the whole name
        return vassal


def _show(answers: Iterable[dict[str, Any]], *, as_json: bool) -> None:
    colours = sys.stdout.isatty()
    for answer in answers:
        line = (
            jsonlib.dumps(answer, ensure_ascii=False)
            if as_json
            else LogRecord.from_dict(answer).to_text(colours=colours)
        )
        print(line, flush=True)


def _kept(folder: Path, lines: int, generation: int | None, role: str | None) -> Iterator[dict[str, Any]]:
    from instar.supervisor.logstore import LogStore

    for record in LogStore(folder).tail(lines, generation=generation, role=role):
        yield record.to_dict()
