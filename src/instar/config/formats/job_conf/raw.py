"""What both forms of the file have in common, as written: names, texts and nothing decided yet."""

from __future__ import annotations

import dataclasses
from typing import Any

#: A part of the file as a dictionary; XML attributes and `<param>` elements are keys.
Entry = dict[str, Any]


@dataclasses.dataclass
class Raw:
    """The parts of a job configuration."""

    #: By id: `load`, `workers` and the runner's parameters.
    runners: dict[str, Entry] = dataclasses.field(default_factory=dict)
    #: `assign`, `max_grab`, `ready_window_size`, `default` … without the processes.
    handling: Entry = dataclasses.field(default_factory=dict)
    #: By id: `tags`, `plugins`, `environment` …
    processes: dict[str, Entry] = dataclasses.field(default_factory=dict)
    #: `default`, `default_from_environ` …
    execution: Entry = dataclasses.field(default_factory=dict)
    #: By id: `runner`, `tags`, `env`, and everything else is a parameter.
    environments: dict[str, Entry] = dataclasses.field(default_factory=dict)
    #: `id` (or `class`), `handler`, `environment`, and the rest.
    tools: list[Entry] = dataclasses.field(default_factory=list)
    #: `type`, `value`, `id`, `tag`.
    limits: list[Entry] = dataclasses.field(default_factory=list)
    #: Parts of the file that are not read at all.
    unknown: list[str] = dataclasses.field(default_factory=list)
