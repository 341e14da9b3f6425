"""The journal: what the supervisor is about to do, written before it does it.

One JSON object a line, appended with a single write: whole or absent after a SIGKILL. Not synced to disk: after
a power loss no process is left that an entry could be about. The entries named `result` are the history that
people see.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from instar.system import System

#: Larger journals are shortened when a supervisor starts.
_COMPACT_ABOVE = 1 << 20
_KEEP = 500


class Journal:
    """Owner of the file. Entries: {"seq", "time", "op", …}."""

    def __init__(self, path: Path, system: System) -> None:
        self._path = path
        self._system = system
        entries = read(path)
        self._seq = entries[-1]["seq"] if entries else 0
        if path.exists() and path.stat().st_size > _COMPACT_ABOVE:
            self._compact(_worth_keeping(entries))
        self._fd = system.open_append(path)
        self._end_torn_line()

    def write(self, op: str, **fields: Any) -> int:
        """Append an entry, and return its number; call it before the effect. Raises OSError when the disk refuses."""
        entry = {"seq": self._seq + 1, "time": self._system.time(), "op": op, **fields}
        self._system.append(self._fd, (json.dumps(entry) + "\n").encode())
        self._seq += 1
        return self._seq

    def entries(self) -> list[dict[str, Any]]:
        """All that are left, oldest first."""
        return read(self._path)

    def history(self, limit: int) -> list[dict[str, Any]]:
        """The last results, oldest first."""
        return [entry for entry in read(self._path) if entry["op"] == "result"][-limit:]

    def last_generation(self) -> int:
        """The highest generation number ever used here."""
        return max((entry.get("generation") or 0 for entry in read(self._path)), default=0)

    def close(self) -> None:
        """Close the file."""
        os.close(self._fd)

    def _compact(self, entries: list[dict[str, Any]]) -> None:
        temporary = self._path.with_suffix(".new")
        temporary.write_text("".join(json.dumps(entry) + "\n" for entry in entries))
        temporary.replace(self._path)

    def _end_torn_line(self) -> None:
        """A write that a full disk cut short must not swallow the next entry."""
        with self._path.open("rb") as file:
            file.seek(0, os.SEEK_END)
            if file.tell() == 0:
                return
            file.seek(-1, os.SEEK_END)
            if file.read(1) != b"\n":
                self._system.append(self._fd, b"\n")


def _worth_keeping(entries: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The history, what the next supervisor goes by (a generation's last switch, paused names), and the latest."""
    last: dict[tuple[Any, ...], int] = {}
    for entry in entries:
        if entry["op"] in ("pause", "resume"):
            last["pause", entry.get("name")] = entry["seq"]
        elif entry["op"] in ("lineage", "boot", "stop"):
            last[entry["op"],] = entry["seq"]
    needed = {*last.values(), *(entry["seq"] for entry in [e for e in entries if e["op"] == "result"][-_KEEP:])}
    needed.update(entry["seq"] for entry in entries[-_KEEP:])
    return [entry for entry in entries if entry["seq"] in needed]


def read(path: Path) -> list[dict[str, Any]]:
    """All whole entries; a torn line is skipped."""
    if not path.exists():
        return []
    entries = []
    for line in path.read_text(errors="replace").splitlines():
        try:
            entry = json.loads(line)
        except ValueError:
            continue
        if isinstance(entry, dict) and "op" in entry and "seq" in entry:
            entries.append(entry)
    return entries
