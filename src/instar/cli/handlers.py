"""`instar handlers`: the named handlers of a running application."""

from __future__ import annotations

import urllib.parse
from collections.abc import Callable
from typing import Annotated

import typer

from instar.cli import help_text
from instar.cli._format import console, print_json
from instar.cli._handlers import handler_table, queue_table
from instar.cli._options import ConfigFile, Json, Name, StateDir
from instar.cli._stages import follow_handover
from instar.cli._target import find_client

handlers = typer.Typer(
    help=help_text(
        """Show the named handlers, and restart, move, pause or resume one of them.

        The web workers, and all other handlers, are left alone.
        """
    ),
    no_args_is_help=True,
)

HandlerName = Annotated[str, typer.Argument(metavar="HANDLER", help="Name of the handler.", show_default=False)]


def _command(name: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Make a function a sub-command, with its docstring as help."""

    def register(function: Callable[..., None]) -> Callable[..., None]:
        return handlers.command(name, help=help_text(function.__doc__))(function)

    return register


@_command("list")
def list_(json: Json = False, config: ConfigFile = None, name: Name = None, state_dir: StateDir = None) -> None:
    """Show each handler, and how full the message queues are.

    \b
    Examples:
      instar handlers list
      instar handlers list --json | jq -r '.handlers[] | select(.state == "paused") | .name'
    """
    answer = find_client(config, name, state_dir).get("/v1/status")
    found, queues = answer.get("handlers") or [], answer.get("queues") or []
    if json:
        print_json({"handlers": found, "queues": queues})
        return
    screen = console()
    if not found:
        screen.print(r"no handlers; add a table \[handlers.POOL] to the configuration")
        return
    screen.print(handler_table(found))
    if queues:
        screen.print()
        screen.print(queue_table(queues))


@_command("restart")
def restart(
    handler: HandlerName,
    json: Json = False,
    config: ConfigFile = None,
    name: Name = None,
    state_dir: StateDir = None,
) -> None:
    """Replace the process of a handler by a fresh one with the same code.

    The fresh one boots first where it can (a warm handler), so that its name is unheld for milliseconds only.

    \b
    Examples:
      instar handlers restart main.mail.1
    """
    _change(handler, "restart", json, config, name, state_dir)


@_command("move")
def move(
    handler: HandlerName,
    json: Json = False,
    config: ConfigFile = None,
    name: Name = None,
    state_dir: StateDir = None,
) -> None:
    """Move a handler to the code that serves now.

    For a handler that kept its name when the others moved (keep_name). Exit code 6: it keeps it still.

    \b
    Examples:
      instar handlers move main.mail.1
    """
    _change(handler, "move", json, config, name, state_dir)


@_command("pause")
def pause(
    handler: HandlerName,
    json: Json = False,
    config: ConfigFile = None,
    name: Name = None,
    state_dir: StateDir = None,
) -> None:
    """Let a handler finish and leave its name unheld until it is resumed, also over restarts.

    \b
    Examples:
      instar handlers pause main.mail.1
    """
    _change(handler, "pause", json, config, name, state_dir)


@_command("resume")
def resume(
    handler: HandlerName,
    json: Json = False,
    config: ConfigFile = None,
    name: Name = None,
    state_dir: StateDir = None,
) -> None:
    """Start a paused handler again, with the code that serves now.

    \b
    Examples:
      instar handlers resume main.mail.1
    """
    _change(handler, "resume", json, config, name, state_dir)


def _change(handler: str, verb: str, as_json: bool, config: ConfigFile, name: Name, state_dir: StateDir) -> None:
    path = f"/v1/handlers/{urllib.parse.quote(handler, safe='')}/{verb}"
    events = find_client(config, name, state_dir).stream("POST", path, {})
    raise typer.Exit(follow_handover(events, what=f"{verb} {handler}", as_json=as_json))
