"""`[jobs]`: durable jobs, which are stored at once and run by named handlers."""

from __future__ import annotations

import re
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, WithJsonSchema

from instar.config.table import Table, setting
from instar.config.types import NAME_PATTERN, Count, Duration, OptionalPath, Period, Switch, Text, Variables, quoted


def _named(what: str, table: str) -> BeforeValidator:
    def check(value: object) -> object:
        if not isinstance(value, dict):
            raise ValueError(f"must be tables, as in [jobs.{table}.mine]")
        for name in value:
            if not re.fullmatch(NAME_PATTERN, str(name)):
                raise ValueError(f'has a {what} with the name "{name}"; use letters, digits, "-", "_" and "."')
        return value

    return BeforeValidator(check)


def _one_or_more(value: object) -> object:
    return [value] if isinstance(value, str) else value


def _tag(text: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}", text):
        raise ValueError(f'must be 1 to 64 letters, digits, "-", "_" or ".", not {quoted(text)}')
    return text


#: Unlike the names of processes these may begin with `_`: Galaxy's `_default_` does.
_Names = Annotated[
    tuple[Annotated[Text, AfterValidator(_tag)], ...],
    BeforeValidator(_one_or_more),
    WithJsonSchema({"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]}),
]


def _values(value: object) -> object:
    if not isinstance(value, dict):
        raise ValueError("must be a table")
    return value


#: Whatever a runner understands.
_Values = Annotated[dict[str, Any], BeforeValidator(_values), WithJsonSchema({"type": "object"})]


def _store(text: str) -> str:
    scheme, colon, _ = text.partition("://")
    if text and (not colon or scheme not in ("sqlite", "postgresql", "postgres")):
        raise ValueError('must be "sqlite:///PATH" or "postgresql://USER@HOST/DATABASE"')
    return text


class JobRunner(Table):
    """What starts attempts and tells how they ended."""

    kind: Text = setting(
        "",
        "`local`, `thread`, `process`, `slurm`, or one that an installed package adds (entry points of the group "
        "`instar.runners`). Empty: as the table is called.",
        unit="name",
    )
    workers: Count = setting(
        0, "Attempts that each handler has in it at a time. 0: the runner's own default.", unit="count"
    )
    options: _Values = setting({}, "Settings of its own.", unit="table")
    optional: Switch = setting(
        False,
        "Where no package brings a runner of this kind, handlers do without it, and jobs for it wait; otherwise the "
        "generation fails. Runners of a job configuration that aren't instar's own are optional.",
        unit="switch",
    )


class JobDestination(Table):
    """Where jobs can be sent: a runner with parameters."""

    runner: Text = setting("", "A runner. Empty: the one that is called as the destination.", unit="name")
    params: _Values = setting(
        {}, "Parameters for the runner, such as the resources that a cluster is asked for.", unit="table"
    )
    env: Variables = setting({}, "More environment variables of its jobs.", unit="table of texts", repr=False)
    tags: _Names = setting((), "Rules and jobs may name one of these instead of the destination.", unit="list of names")
    limit: Count = setting(0, "Attempts in it at a time, of all handlers together. 0: no limit.", unit="count")
    user_limit: Count = setting(0, "The same for the jobs of one user. 0: no limit.", unit="count")
    timeout: Duration = setting(0.0, "Longest run of an attempt whose job sets none. 0: no limit.", unit="seconds")


class JobRule(Table):
    """Where jobs of one kind go that don't say so themselves."""

    handler: Text = setting("", "Name of a handler, or a tag of handlers.", unit="name")
    destination: Text = setting("", "Name of a destination, or a tag of destinations.", unit="name")
    params: _Values = setting({}, "Parameters for the runner, over those of the destination.", unit="table")


class JobHandler(Table):
    """What is said of one handler by its name."""

    tags: _Names = setting((), "Tags besides those of its pool.", unit="list of names")
    runners: _Names = setting((), "Runners that it may use. Empty: all.", unit="list of names")
    max_grab: Count = setting(0, "Jobs that it takes at a time. 0: as `[jobs]` says.", unit="count")


class Jobs(Table):
    """Jobs are on when `pool` is set: the handlers of that pool run them."""

    pool: Text = setting(
        "",
        "Pool whose handlers run jobs. A pool without `target`, `script` and `command` does nothing else; one that "
        "has a `target` of its own calls `instar.jobs.run()` in it.",
        unit="name",
        example="job-handlers",
    )
    store: Annotated[Text, AfterValidator(_store)] = setting(
        "",
        "Where jobs are kept: `sqlite:///PATH` (three slashes, then the absolute path) or `postgresql://…`. Empty: a "
        "SQLite file in the state directory.",
        unit="URL",
        repr=False,
        example="postgresql://mysite@db/mysite",
    )
    store_env: Text = setting(
        "", "Name of an environment variable of the application that has the URL, if it holds a password.", unit="name"
    )
    folder: OptionalPath = setting(
        None, "Folder for the output of local jobs. Empty: one in the state directory.", unit="path"
    )
    config: OptionalPath = setting(
        None,
        "A job configuration as Galaxy has it (`job_conf.xml` or `job_conf.yml`). What stands in this table wins.",
        unit="path",
        example="/srv/galaxy/config/job_conf.yml",
    )
    runners: Annotated[dict[str, JobRunner], _named("runner", "runners")] = setting(
        {}, "Runners by name. `local` is always there.", unit="tables"
    )
    destinations: Annotated[dict[str, JobDestination], _named("destination", "destinations")] = setting(
        {}, "Destinations by name. Each runner is one as well, without parameters.", unit="tables"
    )
    default_destination: Text = setting("local", "Where jobs go that nothing else sends anywhere.", unit="name")
    handlers: Annotated[dict[str, JobHandler], _named("handler", "handlers")] = setting(
        {}, "Settings of single handlers, by their full name.", unit="tables"
    )
    default_handler: Text = setting(
        "", "Name, or tag, of the handlers that take jobs which name none. Empty: any of the pool.", unit="name"
    )
    rules: Annotated[dict[str, JobRule], BeforeValidator(_values)] = setting({}, "Rules by kind of job.", unit="tables")
    max_grab: Count = setting(
        0, "Jobs that a handler takes at a time. 0: as many as its runners have room for.", unit="count"
    )
    ready_window: Count = setting(
        0,
        "Jobs of one user that are looked at in one round, so that thousands of one user don't keep the few of "
        "another waiting. 0: no limit.",
        unit="count",
    )
    user_limit: Count = setting(0, "Jobs of one user that run at a time, everywhere. 0: no limit.", unit="count")
    poll: Period = setting(
        1.0, "Longest pause before the store is looked at again when nothing has called for it.", unit="seconds"
    )
    keep: Duration = setting(0.0, "Ended jobs are deleted after this. 0: never.", unit="seconds", example="30d")
    free_after: Duration = setting(
        0.0,
        "Waiting jobs of a handler whose name nobody has held for so long may be taken by any. 0: they wait, see "
        "`instar jobs reassign`.",
        unit="seconds",
    )
