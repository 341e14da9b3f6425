"""`[handlers.POOL]`: background handlers with names that are never held twice."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, BeforeValidator, Field, WithJsonSchema

from instar.config.nearest import did_you_mean
from instar.config.table import Table, setting
from instar.config.types import (
    Argv,
    Count,
    Duration,
    Name,
    OptionalPath,
    Period,
    Size,
    Switch,
    Target,
    Text,
    Variables,
    quoted,
)
from instar.config.units import is_number

#: What a handler's name may be: it goes into file names, process names and roles of the log.
HANDLER_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}")

_PLACEHOLDER = re.compile(r"\{([^{}]*)\}")
_PADDED = re.compile(r"(index0?):0([1-9])")
_KNOWN = ("server_name", "pool", "index", "index0")


def _template(text: str) -> str:
    for inner in _PLACEHOLDER.findall(text):
        if inner not in _KNOWN and not _PADDED.fullmatch(inner):
            raise ValueError(
                f'has the placeholder "{{{inner}}}"; known are {{server_name}}, {{pool}}, {{index}} and {{index0}}'
                + did_you_mean(inner.partition(":")[0], _KNOWN, "{{{}}}")
            )
    rest = _PLACEHOLDER.sub("", text)
    if "{" in rest or "}" in rest:
        raise ValueError(f"has a brace that stands alone: {quoted(text)}")
    return text


def _not_empty(text: str) -> str:
    if not text:
        raise ValueError("must not be empty")
    return text


#: Template of handler names, or nothing.
OptionalTemplate = Annotated[Text, AfterValidator(_template)]
#: Template of handler names.
Template = Annotated[OptionalTemplate, AfterValidator(_not_empty)]


def expand_name(template: str, *, server_name: str, pool: str, index: int) -> str:
    """The name of one handler; `index` counts from 1. The template must have been validated."""
    numbers = {"index": index, "index0": index - 1}

    def value(match: re.Match[str]) -> str:
        key, _, padding = match[1].partition(":")
        if key in numbers:
            return f"{numbers[key]:{padding}}"
        return server_name if key == "server_name" else pool

    return _PLACEHOLDER.sub(value, template)


def _cores(value: object) -> object:
    if not is_number(value):
        raise ValueError("must be a number of processor cores such as 0.5 or 2")
    return value


Cores = Annotated[float, BeforeValidator(_cores), Field(ge=0)]


def _one_or_more(value: object) -> object:
    return [value] if isinstance(value, str) else value


Tags = Annotated[
    tuple[Name, ...],
    BeforeValidator(_one_or_more),
    WithJsonSchema({"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]}),
]


#: Whole names of handlers; what a name may be is checked with the others.
HandlerNames = Annotated[
    tuple[Text, ...],
    BeforeValidator(_one_or_more),
    WithJsonSchema({"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]}),
]


class HandlerPool(Table):
    """Processes that do background work. Each has a name, which one process at a time holds, also during a restart."""

    #: How the documentation calls a table of this kind.
    entry: ClassVar[str] = "POOL"

    count: Count = setting(
        1, "Number of handlers. When it changes, those that stay keep their names; 0: none.", unit="count"
    )
    target: Target = setting(
        "",
        "A callable of the application that does the work, called without arguments in a process forked after the "
        "application was loaded. Exactly one of `target`, `script` and `command` is needed.",
        unit="module:callable",
        example="mysite.mail:work",
    )
    script: OptionalPath = setting(
        None,
        "A Python file that is run by the application's interpreter, in a process of its own or, with `handover = "
        '"warm"`, in one that was forked after the application was loaded.',
        unit="path",
        example="mailer.py",
    )
    command: Argv = setting(
        (),
        "Program and arguments; no shell runs them. `{python}` stands for the application's interpreter.",
        unit="list of words",
        example=["{python}", "-m", "mysite.mailer"],
    )
    handover: Literal["auto", "warm", "cold"] = setting(
        "auto",
        "How a name passes to new code. `warm`: the successor is forked from the loaded application and waits for the "
        "name, a `target` by itself in `current_handler().wait_active()`, a `script` until it is run. `cold`: the "
        "program is started when the name is free. `auto`: `warm` for a `target`, `cold` for all else.",
        unit="choice",
    )
    stop_timeout: Duration = setting(
        30.0, "Time that a handler may take to finish when it has to release its name; then SIGTERM.", unit="seconds"
    )
    kill_timeout: Duration = setting(
        5.0, "Time from SIGTERM to SIGKILL of the handler and all that it started.", unit="seconds"
    )
    keep_name: Switch = setting(
        False,
        "A handler that is not finished after `stop_timeout` is not ended: it keeps its name and runs on in the old "
        "code, while the others move. The restart then ends with exit status 6.",
        unit="switch",
    )
    env: Variables = setting(
        {}, "More environment variables, besides those of the application.", unit="table of texts", repr=False
    )
    tags: Tags = setting(
        (), "Words that the handlers of this pool find in `current_handler().tags`.", unit="list of names"
    )
    memory_max: Size = setting(
        0,
        "Memory that a handler and all that it started may use together. 0: no limit. It needs a writable cgroup v2.",
        unit="bytes",
        example="1G",
    )
    cpu_max: Cores = setting(
        0.0, "Processor cores that they may use together. 0: no limit. It needs a writable cgroup v2.", unit="cores"
    )
    backoff: Period = setting(
        0.5, "Pause before a handler that ended is started again; it doubles each time it ends early.", unit="seconds"
    )
    backoff_limit: Period = setting(30.0, "Longest such pause.", unit="seconds")
    name: OptionalTemplate = setting(
        "",
        "Template of the names of this pool. Empty: `[app] handler_name`.",
        unit="template",
        example="{pool}{index0}",
    )
    exact_names: HandlerNames = setting(
        (),
        "The names themselves, instead of `count` and a template: for a site whose stored jobs refer to names that no "
        "template gives.",
        unit="list of names",
        example=["main.mule.3", "main.mule.7"],
    )

    @property
    def warm(self) -> bool:
        """Whether the successor boots before it has the name."""
        return self.handover == "warm" or (self.handover == "auto" and not (self.script or self.command))

    @property
    def work(self) -> dict[str, Any]:
        """What is set of `target`, `script` and `command`; one of them when the configuration was checked."""
        given = {"target": self.target, "script": self.script, "command": self.command}
        return {key: value for key, value in given.items() if value}

    def names(self, *, server_name: str, pool: str, template: str) -> Iterator[str]:
        """The names, in the order of their indexes; `template` is that of `[app]`."""
        if self.exact_names:
            yield from self.exact_names
            return
        for index in range(1, self.count + 1):
            yield expand_name(self.name or template, server_name=server_name, pool=pool, index=index)
