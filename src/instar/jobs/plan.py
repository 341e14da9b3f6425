"""How jobs are run here: runners, destinations, limits, and who may take what.

Made by the supervisor from `[jobs]` of instar.toml or a job configuration file, given to every process of the
application as one JSON document (`INSTAR_JOBS` names its file). Fields are only ever added, with a default.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

#: Name of the destination that is there without any configuration, and of its runner.
LOCAL = "local"


@dataclasses.dataclass(frozen=True)
class RunnerPlan:
    """One runner (`instar.jobs.runners`)."""

    name: str
    #: `local`, `thread`, `process`, `slurm`, or the name of an entry point of the group `instar.runners`.
    kind: str
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    #: Attempts that one handler has in it at a time; 0: the runner's own default.
    workers: int = 0
    #: Handlers do without it if there is no such kind.
    optional: bool = False


@dataclasses.dataclass(frozen=True)
class Destination:
    """Where a job can run: a runner with parameters."""

    name: str
    runner: str
    params: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    env: Mapping[str, str] = dataclasses.field(default_factory=dict)
    tags: tuple[str, ...] = ()
    #: Attempts in it at a time, of all handlers together; 0: no limit.
    limit: int = 0
    #: The same for one user.
    user_limit: int = 0
    #: Longest run of an attempt in seconds, where the job sets none; 0: no limit.
    timeout: float = 0.0


@dataclasses.dataclass(frozen=True)
class HandlerPlan:
    """What is said of one handler by its name."""

    name: str
    tags: tuple[str, ...] = ()
    #: Names of the runners that it may use; empty: all.
    runners: tuple[str, ...] = ()
    #: 0: as the plan says.
    max_grab: int = 0


@dataclasses.dataclass(frozen=True)
class Rule:
    """Where jobs of one kind go, unless they say so themselves."""

    kind: str
    #: Name of a handler, or a tag of handlers.
    handler: str = ""
    #: Name of a destination, or a tag: then any destination that has it.
    destination: str = ""
    params: Mapping[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class JobPlan:
    """The whole. Times in seconds."""

    #: `sqlite:///PATH` or `postgresql://…`.
    store: str
    #: Each attempt of a local job has its folder in it.
    folder: str
    #: Socket of the launcher that the supervisor keeps; empty: runners start their own.
    launcher: str = ""
    runners: tuple[RunnerPlan, ...] = (RunnerPlan(LOCAL, "local"),)
    destinations: tuple[Destination, ...] = (Destination(LOCAL, LOCAL),)
    #: Destination (or tag of destinations) of jobs that no rule sends elsewhere.
    default_destination: str = LOCAL
    handlers: tuple[HandlerPlan, ...] = ()
    #: Tag (or name) of the handlers that take jobs which say nothing; empty: every handler of `pool`.
    default_handler: str = ""
    #: Pool whose handlers run jobs.
    pool: str = ""
    rules: tuple[Rule, ...] = ()
    #: Jobs that a handler takes at a time; 0: as many as its runners have room for.
    max_grab: int = 0
    #: Jobs of one user that are considered at a time, so that one user's thousands don't hide another's few; 0: all.
    ready_window: int = 0
    #: Live jobs of one user, everywhere; 0: no limit.
    user_limit: int = 0
    #: Longest pause between two looks at the store when nothing rings.
    poll: float = 1.0
    #: Ended jobs are deleted after this; 0: never.
    keep: float = 0.0
    #: Waiting jobs of a name that no handler has had for so long may be taken by anyone; 0: they wait.
    free_after: float = 0.0

    def to_json(self) -> str:
        """The document."""
        return json.dumps(dataclasses.asdict(self))

    @classmethod
    def from_json(cls, text: str) -> JobPlan:
        """Read a document; unknown fields (of a newer supervisor) are ignored."""
        raw = _known(cls, json.loads(text))
        for field, part in _PARTS.items():
            if field in raw:
                raw[field] = tuple(part(**_known(part, item)) for item in raw[field])
        return cls(**raw)


_PARTS: Mapping[str, type[Any]] = {
    "runners": RunnerPlan,
    "destinations": Destination,
    "handlers": HandlerPlan,
    "rules": Rule,
}


def _known(cls: type[Any], raw: Mapping[str, Any]) -> dict[str, Any]:
    names = {field.name for field in dataclasses.fields(cls)}
    return {key: tuple(value) if isinstance(value, list) else value for key, value in raw.items() if key in names}
