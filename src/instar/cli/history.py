"""`instar history`."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from instar.cli._format import console, escaped, moment, print_json, seconds, styled
from instar.cli._options import ConfigFile, Json, Name, StateDir
from instar.cli._target import find_client


def history(
    limit: Annotated[int, typer.Option("-n", "--limit", min=1, help="Show at most this many, newest last.")] = 20,
    json: Json = False,
    config: ConfigFile = None,
    name: Name = None,
    state_dir: StateDir = None,
) -> None:
    """Show past boots, restarts, rollbacks and crashes, with the time each stage took.

    \b
    Examples:
      instar history
      instar history -n 5
      instar history --json | jq '.entries[] | select(.outcome != "done")'
    """
    answer = find_client(config, name, state_dir).get(f"/v1/history?limit={limit}")
    if json:
        print_json(answer)
    else:
        _show(answer["entries"])


def _show(entries: list[dict[str, Any]]) -> None:
    from rich.table import Table

    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    for column in ("time", "event", "generation", "outcome", "took", "stages, or what went wrong"):
        table.add_column(column, overflow="fold")
    for entry in entries:
        generation = "-" if entry.get("generation") is None else str(entry["generation"])
        if entry.get("from"):
            generation = f"{entry['from']} → {generation}"
        took = seconds(entry["seconds"]) if entry.get("seconds") is not None else "-"
        outcome = styled(entry.get("outcome") or "-")
        table.add_row(moment(entry.get("time")), styled(entry["kind"]), generation, outcome, took, _detail(entry))
    console().print(table if entries else "nothing has happened yet")


def _detail(entry: dict[str, Any]) -> str:
    if entry.get("error"):
        return escaped(entry["error"])
    versions = f"instar {entry['from_version']} → {entry['version']}: " if entry.get("to_version") else ""
    stages = [stage for stage in entry.get("stages") or [] if stage.get("state") == "done"]
    listed = ", ".join(f"{escaped(stage['stage'])} {seconds(stage.get('seconds'))}" for stage in stages)
    return escaped(versions) + listed
