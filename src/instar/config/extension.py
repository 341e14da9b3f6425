"""What a configuration that wasn't written as instar.toml brings along for the application's processes."""

from __future__ import annotations

import dataclasses
from typing import Any


@dataclasses.dataclass(frozen=True)
class Extension:
    """`target` (`module:class`, an `instar.runtime.extension.Extension`) is loaded in every process of a generation.

    `data` is its own, as JSON knows it. `queues` are message queues besides those of pools and handlers.
    """

    target: str
    data: dict[str, Any] = dataclasses.field(default_factory=dict)
    queues: tuple[str, ...] = ()
