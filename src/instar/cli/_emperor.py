"""Finds the Emperor that a verb speaks to, and shows its vassals."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from instar.cli._format import count, escaped, seconds, styled, table
from instar.cli._target import DEFAULT_FILE
from instar.control.client import Client
from instar.errors import ConfigError, NoSupervisorError

if TYPE_CHECKING:
    from rich.console import Group

EmperorDir = Annotated[
    Path | None,
    typer.Option(
        "--emperor",
        metavar="DIR",
        help="The Emperor of this directory (`instar run DIR`).",
        show_default="the only one that runs",
        rich_help_panel="Which one",
    ),
]
VassalName = Annotated[
    str | None,
    typer.Argument(metavar="[VASSAL]", help="A file of the Emperor's directory, with or without its ending."),
]


def find_emperor(directory: Path | None) -> Client:
    """The Emperor of a directory, or the only one that runs. Raises NoSupervisorError, ConfigError."""
    from instar.uwsgi.emperor.statedir import emperor_state

    if directory is not None:
        return Client(emperor_state(directory).root)
    running = running_emperors()
    if len(running) > 1:
        names = ", ".join(str(path) for path in running)
        raise ConfigError(f"cannot tell which Emperor is meant: there are {names}; name its directory with --emperor")
    if not running:
        raise NoSupervisorError("cannot find an Emperor: none runs; start one with `instar run DIR`")
    return next(iter(running.values()))


def running_emperors() -> dict[Path, Client]:
    """Those of this user that answer."""
    from instar.uwsgi.emperor.statedir import emperors

    found = {}
    for directory, state in emperors():
        client = Client(state.root)
        try:
            client.get("/v1/status")
        except NoSupervisorError:
            continue
        found[directory] = client
    return found


def emperor_meant(client: Client, *named: object) -> Client | None:
    """The Emperor that a verb without any name is about, when there is no application that it could be about."""
    if any(item is not None for item in named) or DEFAULT_FILE.exists() or client.path.exists():
        return None
    running = running_emperors()
    return next(iter(running.values())) if len(running) == 1 else None


def render_emperor(answer: dict[str, Any]) -> Group:
    """The answer of GET /v1/status as something that rich can print."""
    from rich.console import Group
    from rich.text import Text

    head = (
        f"[bold]Emperor of {escaped(answer['emperor'])}[/] {styled(answer['state'])}, pid {answer['pid']}, "
        f"up {seconds(answer['uptime'])}, instar {escaped(answer['version'])}"
    )
    rows = table("vassal", "run by", "state", "pid", "age", "restarts", "note", right=("restarts",))
    for item in answer["vassals"]:
        age = seconds(max(0.0, time.time() - item["since"])) if item["since"] else "-"
        note = escaped(item["note"] or "")
        rows.add_row(
            escaped(item["name"]),
            item["kind"],
            styled(item["state"]),
            count(item["pid"]),
            age,
            count(item["restarts"]),
            note,
        )
    return Group(Text.from_markup(head), "", rows)


def render_vassal(answer: dict[str, Any]) -> str:
    """What an Emperor says about one vassal, as console markup."""
    pid = f", pid {answer['pid']}" if answer["pid"] else ""
    text = f"[bold]{escaped(answer['name'])}[/] ({answer['kind']}) {styled(answer['state'])}{pid}"
    return f"{text}\n  {escaped(answer['note'])}" if answer["note"] else text
