"""What the parts of a zygote share."""

from __future__ import annotations

import enum
from typing import Protocol

from instar.runtime.link import Link
from instar.runtime.loader import Application
from instar.runtime.nursery import Nursery
from instar.runtime.scoreboard import Scoreboard
from instar.runtime.spec import GenerationSpec
from instar.system import System


class Phase(enum.Enum):
    """Where the zygote stands; only ever goes down this list."""

    BOOTING = "booting"
    SERVING = "serving"
    STOPPING = "stopping"


class Parent(Protocol):
    """The zygote, as its crew of web workers and its roster of handlers see it."""

    spec: GenerationSpec
    system: System
    board: Scoreboard
    nursery: Nursery
    link: Link
    #: None with the `command` engine, and in a lazy zygote.
    app: Application | None
    phase: Phase

    def tell(self, data: bytes) -> int:
        """In a child: send an event to the zygote."""

    def fail_boot(self, stage: str, error: str, trace: str = "") -> None:
        """The generation can't come up."""
