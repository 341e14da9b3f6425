"""What a command above the supervisor may add to it. `instar run` adds nothing, `instar uwsgi` all of it."""

from __future__ import annotations

import dataclasses
from collections.abc import Awaitable, Callable
from pathlib import Path

from instar.config import Config

#: Told the generation's configuration and number.
Moment = Callable[[Config, int], Awaitable[None]]


@dataclasses.dataclass(frozen=True)
class Seams:
    """Places where a supervisor asks somebody else. An exception that a moment raises must be a HookError.

    The moments are awaited inside the handover and delay it; other requests are served meanwhile.
    """

    #: Before a generation boots; an error ends the handover with nothing changed.
    booting: Moment | None = None
    #: New connections have begun to go to the generation, the handlers' names have not moved yet; an error rolls back.
    accepting: Moment | None = None
    #: Folder of the handlers' lock files, if it is shared with other supervisors. A name that one of them holds is
    #: then waited for without end, beside everything else.
    handler_dir: Path | None = None
    #: More for people who ask for the status.
    notes: Callable[[], list[str]] = list
