"""Runs the self-test of a version of instar, as a child of the version that runs."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from instar.errors import InstarError
from instar.supervisor.child import Child
from instar.supervisor.registry import Registry
from instar.supervisor.upgrade.selftest import Findings, Order
from instar.system import describe_status

#: Lines of output that explain a failure.
_TAIL = 20


class TrialError(InstarError):
    """A version can't take over; with the last lines that it said."""

    def __init__(self, text: str, tail: list[str]) -> None:
        super().__init__(text)
        self.tail = tail


class Trial:
    """Changes nothing: the version under test gets a copy of the state."""

    def __init__(self, registry: Registry, environment: Callable[[], dict[str, str]]) -> None:
        self._registry = registry
        self._environment = environment

    async def run(self, command: Sequence[str], limit: float, what: str) -> Findings:
        """Test whatever `command` starts. Raises TrialError, OSError."""
        folder = Path(tempfile.mkdtemp(prefix="selftest-", dir=self._registry.state.control))
        output = folder / "output"
        try:
            self._copy_state(folder)
            status = await self._child(command, folder, output, limit)
            lines = _tail(output)
            if status is None:
                raise TrialError(f"{what} did not end its self-test within {limit:g} s", lines)
            if status != 0:
                why = lines[-1].removeprefix("instar: ") if lines else describe_status(status)
                raise TrialError(f"{what} fails its self-test: {why}", lines)
            try:
                return Findings.read(folder)
            except InstarError as error:
                raise TrialError(f"{what} can't be tested: {error}", lines) from error
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def _copy_state(self, folder: Path) -> None:
        control = self._registry.state.control
        for path in (control / "journal.jsonl", *control.glob("g*.json")):
            shutil.copy(path, folder)

    async def _child(self, command: Sequence[str], folder: Path, output: Path, limit: float) -> int | None:
        system, live = self._registry.system, self._registry.live
        order = Order(
            str(self._registry.state.root),
            str(folder),
            live.number if live else 0,
            sorted({item.protocol for item in self._registry.generations.values()}),
        )
        fd = system.open_append(output)
        try:
            environment = {**self._environment(), **order.environment()}
            process = system.spawn(command, env=environment, cwd=str(Path.cwd()), output=fd)
        except OSError as error:
            raise TrialError(f"cannot execute {command[0]}: {error.strerror}", []) from error
        finally:
            os.close(fd)
        child = Child(process, system)
        try:
            return await asyncio.wait_for(child.wait(), limit)
        except TimeoutError:
            return None
        finally:
            if child.running:
                await child.stop(0.0)


def _tail(path: Path) -> list[str]:
    with contextlib.suppress(OSError):
        return path.read_text(errors="replace").splitlines()[-_TAIL:]
    return []
