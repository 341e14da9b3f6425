"""The journal: what the supervisor is about to do, written before it does it.

One JSON object a line, appended with a single write: whole or absent after a SIGKILL. Not synced to disk: after
a power loss no process is left that an entry could be about. The entries named `result` are the history that
people see.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from instar import __version__
from instar.errors import InstarError
from instar.system import System

#: Of the state directory's documents. A version reads those of the releases before it, back to OLDEST_FORMAT.
FORMAT = 1
OLDEST_FORMAT = 1
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
        self._torn = self._ends_torn()
        #: What a full disk has refused: entries of things that had happened all the same.
        self._late: list[dict[str, Any]] = []

    @property
    def behind(self) -> bool:
        """Whether entries wait for room on the disk."""
        return bool(self._late)

    def write(self, op: str, **fields: Any) -> int:
        """Append an entry, and return its number; call it before the effect. Raises OSError when the disk refuses."""
        self._catch_up()
        entry = self._entry(op, fields)
        self._append(entry)
        self._seq = int(entry["seq"])
        return self._seq

    def record(self, op: str, **fields: Any) -> None:
        """Append what has happened, or a way back: what goes on also when the disk refuses.

        The entry is kept then, and written before the next one.
        """
        entry = self._entry(op, fields)
        self._seq = int(entry["seq"])
        self._late.append(entry)
        with contextlib.suppress(OSError):
            self._catch_up()

    def _entry(self, op: str, fields: dict[str, Any]) -> dict[str, Any]:
        return {"seq": self._seq + 1, "time": self._system.time(), "op": op, **fields}

    def _catch_up(self) -> None:
        while self._late:
            self._append(self._late[0])
            del self._late[0]

    def _append(self, entry: dict[str, Any]) -> None:
        # A write that a full disk cut short must not swallow the next entry.
        begin = "\n" if self._torn else ""
        self._torn = True
        self._system.append(self._fd, f"{begin}{json.dumps(entry)}\n".encode())
        self._torn = False

    def write_format(self) -> None:
        """Say who goes on from here: a version that knows less than this one must not."""
        self.record("format", format=FORMAT, version=__version__)

    def entries(self) -> list[dict[str, Any]]:
        """All that are left, oldest first."""
        return [*read(self._path), *self._late]

    def history(self, limit: int) -> list[dict[str, Any]]:
        """The last results, oldest first."""
        return [entry for entry in self.entries() if entry["op"] == "result"][-limit:]

    def last_generation(self) -> int:
        """The highest generation number ever used here."""
        return max((entry.get("generation") or 0 for entry in self.entries()), default=0)

    def close(self) -> None:
        """Close the file."""
        os.close(self._fd)

    def _compact(self, entries: list[dict[str, Any]]) -> None:
        temporary = self._path.with_suffix(".new")
        temporary.write_text("".join(json.dumps(entry) + "\n" for entry in entries))
        temporary.replace(self._path)

    def _ends_torn(self) -> bool:
        with self._path.open("rb") as file:
            file.seek(0, os.SEEK_END)
            if file.tell() == 0:
                return False
            file.seek(-1, os.SEEK_END)
            return file.read(1) != b"\n"


def _worth_keeping(entries: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The history, what the next supervisor goes by (a generation's last switch, paused names), and the latest."""
    last: dict[tuple[Any, ...], int] = {}
    for entry in entries:
        if entry["op"] in ("pause", "resume"):
            last["pause", entry.get("name")] = entry["seq"]
        elif entry["op"] in ("lineage", "boot", "stop", "format"):
            last[entry["op"],] = entry["seq"]
    needed = {*last.values(), *(entry["seq"] for entry in [e for e in entries if e["op"] == "result"][-_KEEP:])}
    needed.update(entry["seq"] for entry in entries[-_KEEP:])
    return [entry for entry in entries if entry["seq"] in needed]


def check_format(entries: Iterable[Mapping[str, Any]]) -> None:
    """Make sure that we understand what the last supervisor wrote. Raises InstarError."""
    last: Mapping[str, Any] = {"format": FORMAT}
    for entry in entries:
        if entry["op"] == "format":
            last = entry
    number, version = last.get("format", FORMAT), last.get("version", "")
    if number > FORMAT:
        raise InstarError(
            f"cannot use the state of instar {version}: its format is {number}, and instar {__version__} knows "
            f"{OLDEST_FORMAT} to {FORMAT}; start that version"
        )
    if number < OLDEST_FORMAT:
        raise InstarError(
            f"cannot use the state of instar {version}: its format {number} is too old for instar {__version__}; "
            "upgrade by way of a version between the two"
        )


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
