"""What a supervisor leaves to the version that it becomes: a few descriptors, and the facts for its report.

All else comes from the adoption, as after a crash. It travels in the environment variable INSTAR_UPGRADE, as JSON;
`changeover.py` hands it on.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import signal
from collections.abc import MutableMapping
from pathlib import Path
from typing import Any

from instar.errors import InstarError
from instar.supervisor.upgrade.changeover import READY, SIGNALS, VARIABLE

#: Of this document. A newer version understands the previous release's; the self-test asks it.
FORMAT = 1


@dataclasses.dataclass
class Inheritance:
    """Owner of the descriptors until somebody takes them; -1: there is none."""

    #: Of the state directory, locked.
    lock: int
    #: Where the control socket listens: clients wait instead of being refused.
    control: int
    #: Write end of the pipe to the guardian.
    ready: int
    state: Path
    #: Number of the journal's entry that began it.
    op: int
    #: On CLOCK_MONOTONIC, which goes on over the exec.
    began: float
    from_version: str
    #: What the self-test has found.
    version: str
    #: How instar was started, by which the next upgrade finds it.
    command: list[str]
    stages: list[dict[str, Any]]
    #: Seconds until it has to be ready.
    limit: float
    #: How to start the old version.
    back: list[str]
    #: The new version: `-m MODULE`, or the path of a script.
    program: list[str]
    #: Why the new version didn't stay; empty: we are the new one.
    gave_way: str = ""

    def dump(self) -> str:
        """For the environment."""
        raw = dataclasses.asdict(self)
        fds = {name: raw.pop(name) for name in ("lock", "control", "ready")}
        return json.dumps({"format": FORMAT, "fds": fds, **raw, "state": str(self.state)})

    @classmethod
    def take(cls, environ: MutableMapping[str, str] | None = None) -> Inheritance | None:
        """Ours, if we are the result of an upgrade. No child inherits it. Raises InstarError."""
        environ = os.environ if environ is None else environ
        text = environ.pop(VARIABLE, "")
        if not text:
            return None
        try:
            raw = json.loads(text)
            if raw["format"] > FORMAT:
                raise InstarError("cannot take over from a newer instar: it hands over in a way that is unknown here")
            known = {field.name for field in dataclasses.fields(cls)}
            fds = {name: raw["fds"].get(name, -1) for name in ("lock", "control", "ready")}
            rest = {name: value for name, value in raw.items() if name in known}
            found = cls(**{**rest, **fds, "state": Path(raw["state"])})
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise InstarError(
                f"cannot take over: {VARIABLE} can't be read ({type(error).__name__}: {error})"
            ) from error
        for fd in (found.lock, found.control, found.ready):
            if fd >= 0:
                os.set_inheritable(fd, False)
        return found

    def take_lock(self) -> int:
        """The lock becomes the caller's."""
        fd, self.lock = self.lock, -1
        return fd

    def take_control(self) -> int:
        """The listening socket becomes the caller's."""
        fd, self.control = self.control, -1
        return fd

    def confirm(self) -> None:
        """Say that we are ready: from now on nobody goes back."""
        signal.setitimer(signal.ITIMER_REAL, 0)
        if self.ready >= 0:
            with contextlib.suppress(OSError):
                os.write(self.ready, READY)
            os.close(self.ready)
            self.ready = -1


def listen_to_signals() -> None:
    """Let in what had to wait during the exec; call it when the handlers are there."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
