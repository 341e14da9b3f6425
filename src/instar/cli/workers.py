"""`instar workers`: the web workers of a running application."""

from __future__ import annotations

from collections.abc import Callable

import typer

from instar.cli import help_text
from instar.cli._format import console, print_json
from instar.cli._options import ConfigFile, Json, Name, StateDir
from instar.cli._stages import follow_handover
from instar.cli._target import find_client
from instar.cli.status import workers_table

workers = typer.Typer(
    help=help_text(
        """Show the web workers, replace them in the same code, or have new connections wait.

        `instar restart` brings in new code; this does not.
        """
    ),
    no_args_is_help=True,
)


def _command(name: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Make a function a sub-command, with its docstring as help."""

    def register(function: Callable[..., None]) -> Callable[..., None]:
        return workers.command(name, help=help_text(function.__doc__))(function)

    return register


@_command("list")
def list_(json: Json = False, config: ConfigFile = None, name: Name = None, state_dir: StateDir = None) -> None:
    """Show the workers of each generation.

    \b
    Examples:
      instar workers list
      instar workers list --json | jq '.workers[] | select(.in_flight > 0)'
    """
    answer = find_client(config, name, state_dir).get("/v1/status")
    generations = answer.get("generations") or []
    if json:
        found = [{"generation": item["number"], **worker} for item in generations for worker in item["workers"]]
        print_json({"workers": found, "paused": bool((answer.get("web") or {}).get("paused"))})
        return
    console().print(workers_table(generations))


@_command("recycle")
def recycle(json: Json = False, config: ConfigFile = None, name: Name = None, state_dir: StateDir = None) -> None:
    """Replace each worker by a fresh process of the same generation, one after the other, without loss.

    \b
    Examples:
      instar workers recycle
    """
    events = find_client(config, name, state_dir).stream("POST", "/v1/workers/recycle", {})
    raise typer.Exit(follow_handover(events, what="recycle workers", as_json=json))


@_command("pause")
def pause(json: Json = False, config: ConfigFile = None, name: Name = None, state_dir: StateDir = None) -> None:
    """Leave new connections waiting in the listening sockets until they are taken again. A restart takes them.

    Open connections are served on.

    \b
    Examples:
      instar workers pause
    """
    _accept("pause", json, config, name, state_dir)


@_command("resume")
def resume(json: Json = False, config: ConfigFile = None, name: Name = None, state_dir: StateDir = None) -> None:
    """Take new connections again.

    \b
    Examples:
      instar workers resume
    """
    _accept("resume", json, config, name, state_dir)


def _accept(verb: str, as_json: bool, config: ConfigFile, name: Name, state_dir: StateDir) -> None:
    answer = find_client(config, name, state_dir).post(f"/v1/workers/{verb}", {})
    if as_json:
        print_json(answer)
    else:
        state = "new connections wait" if answer["paused"] else "new connections are taken"
        print(state if answer["changed"] else f"{state} already")
