"""The load in a process of its own, as a test sees it."""

from __future__ import annotations

import dataclasses
import json
import os
import selectors
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from load.ledger import Report
from load.target import Target


class LoadError(Exception):
    """The load itself went wrong; nothing is known of the server."""


class LoadProcess:
    """Runs clients against a server: `start`, do things to the server, `stop` gives the report."""

    def __init__(
        self,
        folder: Path,
        target: Target,
        clients: dict[str, dict[str, Any]],
        *,
        keep_alive: float = 30.0,
        seed: int = 1,
    ) -> None:
        self.folder, self.report_path = folder, folder / "report.json"
        self.gates = folder / "gates"
        self.gates.mkdir(parents=True, exist_ok=True)
        self._spec = {
            "target": dataclasses.asdict(target),
            "clients": clients,
            "gates": str(self.gates),
            "keep_alive": keep_alive,
            "seed": seed,
            "report": str(self.report_path),
        }
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, limit: float = 30.0) -> Self:
        """Start, and wait until every class has had a good response."""
        spec = self.folder / "spec.json"
        spec.write_text(json.dumps(self._spec))
        environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
        with (self.folder / "load.err").open("wb") as errors:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "load", str(spec)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                env=environment,
            )
        if not self._read_event(limit):
            report = self.stop()
            raise LoadError(f"not every client class was answered within {limit} s\n{report.table()}")
        return self

    def _read_event(self, limit: float) -> bool:
        assert self._process is not None and self._process.stdout is not None
        with selectors.DefaultSelector() as selector:
            selector.register(self._process.stdout, selectors.EVENT_READ)
            end = time.monotonic() + limit
            while (left := end - time.monotonic()) > 0:
                if selector.select(left):
                    return bool(self._process.stdout.readline())
        return False

    def stop(self, limit: float = 60.0) -> Report:
        """Let every client finish what it is doing, and read the report."""
        assert self._process is not None
        try:
            self._process.communicate(b"stop\n", timeout=limit)
        except subprocess.TimeoutExpired as error:
            raise LoadError(f"the load does not end: {self._errors()}") from error
        finally:
            self.kill()
        if self._process.returncode:
            raise LoadError(f"the load failed: {self._errors()}")
        return Report.read(self.report_path)

    def _errors(self) -> str:
        return (self.folder / "load.err").read_text()[-4000:]

    def kill(self) -> None:
        """End the process if it lives."""
        if self._process is not None and self._process.poll() is None:
            self._process.kill()
            self._process.wait()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()
