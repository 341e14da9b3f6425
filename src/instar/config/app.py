"""`[app]`: the application and the process that it runs in."""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, WithJsonSchema

from instar.config.handlers import Template
from instar.config.table import Table, setting
from instar.config.types import AnyPath, Interpreter, Name, OptionalPath, Switch, Target, Text, Umask, Variables


def _lazy(value: object) -> object:
    if value == "auto" or isinstance(value, bool):
        return value
    raise ValueError(f'must be "auto", true or false, not {json.dumps(value, default=str)}')


#: Not a `Literal` with True in it: 1 would pass.
Lazy = Annotated[Any, BeforeValidator(_lazy), WithJsonSchema({"enum": ["auto", True, False]})]


def _paths(value: object) -> object:
    return [value] if isinstance(value, str) else value


class App(Table):
    """What is run, and as whom."""

    name: Name = setting(
        "main",
        "Name of this application on the host. It names the state directory and the processes; give each "
        "application of a host its own.",
        unit="name",
    )
    target: Target = setting(
        "",
        "Where the application is: module, colon, attribute. Required, except with the `command` engine.",
        unit="module:attribute",
        example="mysite.wsgi:application",
    )
    factory: Switch = setting(
        False, "The target is a function that is called, without arguments, to make the application.", unit="switch"
    )
    interface: Literal["auto", "wsgi", "asgi"] = setting(
        "auto", "How a server talks to the application. `auto` looks at the loaded object.", unit="choice"
    )
    chdir: AnyPath = setting(
        ".",
        "Folder that the application runs in, also the first entry of its module path. When it is a symbolic link, "
        "the folder it points to at boot is the release, and a rollback goes back to that folder.",
        unit="path",
        example="/srv/mysite/current",
    )
    pythonpath: Annotated[
        tuple[AnyPath, ...],
        BeforeValidator(_paths),
        WithJsonSchema({"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]}),
    ] = setting(
        (), "More folders to import from, before the installed packages.", unit="list of paths", example=["src"]
    )
    python: Interpreter = setting(
        None,
        "Interpreter of the application: a path, or a command found in PATH. Empty: the virtual environment "
        "`.venv` or `venv` in `chdir`, else the interpreter that runs instar.",
        unit="path",
        example="/srv/mysite/venv/bin/python",
    )
    env: Variables = setting(
        {},
        "Environment variables of the application, its hooks and its services; they win over those of `env_file`.",
        unit="table of texts",
        repr=False,
        example={"DJANGO_SETTINGS_MODULE": "mysite.settings"},
    )
    env_file: OptionalPath = setting(
        None,
        "File with one `NAME=value` a line, for secrets that do not belong into this file. It is read at each boot "
        "and its values are never shown.",
        unit="path",
        example=".env",
    )
    user: Text = setting(
        "", "User that the application's processes run as (name or number). Only root can change it.", unit="user"
    )
    group: Text = setting(
        "", "Group that they run as (name or number). Empty: the primary group of `user`.", unit="group"
    )
    deploy_group: Text = setting(
        "",
        "Group (name or number) whose members may use the supervisor's control socket, as its user and root do: "
        "restart, roll back, stop, read the log. What is started then is what `instar.toml` says.",
        unit="group",
        example="deploy",
    )
    umask: Umask = setting(
        "",
        "Permissions that files made by the application's processes do not get, in octal digits. Empty: the umask "
        "that instar was started with.",
        unit="octal mode",
        example="027",
    )
    no_new_privs: Switch = setting(
        True,
        "Processes of the application never gain rights: `sudo` and other setuid programs have no effect in them. Turn "
        "it off for an application that needs such programs.",
        unit="switch",
    )
    handler_name: Template = setting(
        "{server_name}.{pool}.{index}",
        "Template of the handlers' names. `{server_name}` is `[app] name`, `{pool}` the name of the table, `{index}` "
        "counts from 1, `{index0}` from 0; `{index:02}` pads with zeros.",
        unit="template",
    )
    lazy: Lazy = setting(
        "auto",
        "Load the application in each worker (true) or once, before the workers are forked (false), which saves "
        "memory. `auto`: once, unless loading it starts threads.",
        unit="choice",
    )
