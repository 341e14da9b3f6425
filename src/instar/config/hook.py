"""Hooks: commands that a restart runs at its stages."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BeforeValidator, Field, GetJsonSchemaHandler
from pydantic_core import CoreSchema

from instar.config.table import Table, setting
from instar.config.types import Argv, Period, Variables, check_argv

#: Seconds, when neither the hook nor `hook_timeout` says it.
HOOK_TIMEOUT = 60.0


class Hook(Table):
    """One command. It fails when it ends with another status than 0, or not in time."""

    command: Annotated[Argv, Field(min_length=1)] = setting(
        ...,
        "Program and arguments; no shell runs them. `{python}` stands for the application's interpreter.",
        unit="list of words",
        example=["{python}", "manage.py", "migrate", "--noinput"],
    )
    timeout: Period = setting(HOOK_TIMEOUT, "Time that it may take. Default: `hook_timeout`.", unit="seconds")
    env: Variables = setting(
        {}, "More environment variables, besides those of the application.", unit="table of texts", repr=False
    )


def _hooks(value: object) -> object:
    check_argv(value)
    if isinstance(value, dict):
        value = [value]
    if not isinstance(value, list | tuple):
        raise ValueError('must be a list of commands, as in [["{python}", "manage.py", "migrate"]]')
    if value and all(isinstance(item, str) for item in value):
        value = [value]
    return [_hook(item) for item in value]


def _hook(item: object) -> object:
    return {"command": item} if isinstance(item, list | tuple | str) else item


class _ShorterForms:
    """Adds them to the JSON Schema."""

    def __get_pydantic_json_schema__(self, core_schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        schema = handler(core_schema)
        argv = {"type": "array", "items": {"type": "string"}}
        schema["items"] = {"anyOf": [{"type": "string"}, argv, schema["items"]]}
        return schema


#: A list of hooks; one argv, or a list of them, will do.
Hooks = Annotated[tuple[Hook, ...], BeforeValidator(_hooks), _ShorterForms()]


def with_timeout(value: Any, timeout: Any) -> Any:
    """The same hooks, raw, with `timeout` given to those that have none. What is malformed is left as it is."""
    try:
        hooks = _hooks(value)
    except ValueError:
        return value
    assert isinstance(hooks, list)  # noqa: S101
    return [{"timeout": timeout, **hook} if isinstance(hook, dict) else hook for hook in hooks]
