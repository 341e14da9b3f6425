"""The ways in which a release can be bad, chosen by a file that is read at import.

`behaviour` holds JSON: `{"kind": "import-error"}`. Kinds:

- at import: `import-error`, `hang-import`, `missing-target`, `import-gate` (waits for the file `gate`)
- at start (lifespan; the WSGI application has none): `lifespan-error`, `hang-lifespan`,
  `worker-error` (only in the worker with this `index`)
- in each forked worker: `worker-exit` (only the `index`-th fork ends, at once), `exit-after` (each, after `seconds`)
- in answers: `health-500`, `health-hang`, `health-500-worker` (only in the worker with this `index`), `errors`
  (everything but the health check is a 500)
"""

from __future__ import annotations

import dataclasses
import json
import os
import threading
import time
from pathlib import Path
from typing import Any, Self

#: Text of every deliberate error: tests look for it in what the user is shown.
MARK = "deliberate failure"


class DeliberateError(RuntimeError):
    """Raised by a bad release."""


@dataclasses.dataclass
class Behaviour:
    """How this release behaves."""

    kind: str = "good"
    index: int = 0
    seconds: float = 1.0
    gate: str = ""
    #: Also hang at the start (of the ASGI application).
    hang: bool = False
    forks: int = 0

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read the file; without it the release is good."""
        try:
            raw: dict[str, Any] = json.loads(path.read_text())
        except FileNotFoundError:
            return cls()
        return cls(**raw)

    def at_import(self) -> None:
        """Called while the application is imported."""
        if self.kind == "import-error":
            raise DeliberateError(f"{MARK} at import")
        if self.kind == "hang-import":
            time.sleep(3600)
        if self.kind == "import-gate":
            while not Path(self.gate).exists():
                time.sleep(0.02)
        if self.kind in ("worker-exit", "exit-after"):
            os.register_at_fork(after_in_parent=self._count, after_in_child=self._in_child)

    def _count(self) -> None:
        self.forks += 1

    def _in_child(self) -> None:
        if self.kind == "worker-exit" and self.forks + 1 == self.index:
            os.write(2, f"{MARK} in worker {self.index}\n".encode())
            os._exit(9)
        if self.kind == "exit-after":
            thread = threading.Timer(self.seconds, self._leave)
            thread.daemon = True
            thread.start()

    def _leave(self) -> None:
        os.write(2, f"{MARK} after {self.seconds} s\n".encode())
        os._exit(9)

    def at_start(self, index: int) -> None:
        """Called when the server starts the application in a worker."""
        if self.kind == "lifespan-error" or (self.kind == "worker-error" and self.index == index):
            raise DeliberateError(f"{MARK} at start of worker {index}")

    @property
    def hangs_at_start(self) -> bool:
        """Whether the start never ends."""
        return self.hang or self.kind == "hang-lifespan"

    def health(self, index: int) -> str:
        """What the health check does: `ok`, `error` or `hang`."""
        if self.kind == "health-hang":
            return "hang"
        if self.kind == "health-500" or (self.kind == "health-500-worker" and self.index == index):
            return "error"
        return "ok"

    @property
    def errors(self) -> bool:
        """Whether every answer is a 500."""
        return self.kind == "errors"
