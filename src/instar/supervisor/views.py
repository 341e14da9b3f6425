"""The processes of a generation as the supervisor sees them."""

from __future__ import annotations

import dataclasses
import os


@dataclasses.dataclass
class WorkerView:
    """A worker process. The generation owns `pidfd`."""

    index: int
    row: int
    pid: int
    pidfd: int
    ready: bool = False


@dataclasses.dataclass
class HandlerView:
    """A handler process. The generation owns the descriptors; a byte to `arm` or `release` commands it."""

    name: str
    pid: int
    pidfd: int
    arm: int
    release: int
    since: float
    #: It has booted and waits for its name.
    waiting: bool = False
    #: 0 until it holds its name.
    epoch: int = 0
    releasing: bool = False

    @property
    def state(self) -> str:
        """As `instar status` says it."""
        if self.releasing:
            return "releasing"
        return "active" if self.epoch else "standby"

    def close(self) -> None:
        """Close the descriptors."""
        for fd in (self.pidfd, self.arm, self.release):
            os.close(fd)


@dataclasses.dataclass(frozen=True)
class Failure:
    """Why a generation can't serve."""

    stage: str
    error: str
    traceback: str = ""
