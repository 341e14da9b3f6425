"""Who runs, on disk: an Emperor that finds the roll of one that died takes its vassals over."""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from instar.system import System
from instar.uwsgi.emperor.process import VassalProcess
from instar.uwsgi.emperor.scan import Found
from instar.uwsgi.emperor.vassal_file import Kind


@dataclasses.dataclass(frozen=True)
class Entry:
    """One process of a vassal. `start_time` (proc_pid_stat(5)) tells it from a later process with its pid."""

    vassal: str
    pid: int
    start_time: int
    kind: Kind
    program: str
    #: Of its file when it was started.
    stamp: tuple[int, int]
    #: Seconds since the epoch.
    began: float = 0.0
    #: The restarter of a dance.
    standin: bool = False


class Roll:
    """The file. Each change is written in one rename."""

    def __init__(self, path: Path, system: System) -> None:
        self._path = path
        self._system = system
        self._entries: dict[int, Entry] = {}

    def enter(self, found: Found, process: VassalProcess, *, standin: bool) -> None:
        """A process was started, or taken over."""
        self._entries[process.pid] = Entry(
            found.name,
            process.pid,
            self._system.start_time(process.pid),
            process.kind,
            process.program,
            found.stamp,
            process.began,
            standin,
        )
        self._write()

    def strike(self, pid: int) -> None:
        """It has ended."""
        if self._entries.pop(pid, None) is not None:
            self._write()

    def read(self) -> list[Entry]:
        """Those of an earlier Emperor that still live."""
        return [entry for entry in self._load() if entry.start_time == self._system.start_time(entry.pid) != 0]

    def _load(self) -> Iterable[Entry]:
        try:
            raw: Any = json.loads(self._path.read_text())
            return [
                Entry(
                    str(item["vassal"]),
                    int(item["pid"]),
                    int(item["start_time"]),
                    Kind(item["kind"]),
                    str(item["program"]),
                    (int(item["stamp"][0]), int(item["stamp"][1])),
                    float(item["began"]),
                    bool(item["standin"]),
                )
                for item in raw["vassals"]
            ]
        except (OSError, ValueError, KeyError, TypeError, IndexError):
            return []

    def _write(self) -> None:
        entries = [dataclasses.asdict(entry) for entry in self._entries.values()]
        new = self._path.with_name(f"{self._path.name}.new")
        # On a full disk the vassals run all the same; a crash would only not find them.
        with contextlib.suppress(OSError):
            new.write_text(json.dumps({"version": 1, "vassals": entries}))
            new.replace(self._path)
