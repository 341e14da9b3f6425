"""One line of output of one process, as it is stored, sent to clients and shown to people."""

from __future__ import annotations

import dataclasses
import datetime
import json
import re
from typing import Any

#: Everything that could move a terminal's cursor or worse, except tabs and colours (SGR sequences).
_CONTROL = re.compile(r"\x1b(?!\[[0-9;]*m)|[\x00-\x08\x0a-\x1a\x1c-\x1f\x7f-\x9f]")
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")


@dataclasses.dataclass(frozen=True, slots=True)
class LogRecord:
    """A line. `generation` is None for services and for the supervisor itself."""

    #: Seconds since the epoch, when the supervisor read the line.
    time: float
    generation: int | None
    #: Which process: `zygote`, `web.1`, `service.NAME`, `supervisor`.
    role: str
    text: str

    def to_dict(self) -> dict[str, Any]:
        """The members as the control API sends them."""
        return {"time": round(self.time, 3), "generation": self.generation, "role": self.role, "text": self.text}

    def to_json(self) -> str:
        """One line of JSON, without its newline."""
        return json.dumps(self.to_dict(), ensure_ascii=False, separators=(",", ":"))

    @classmethod
    def from_dict(cls, raw: dict[str, Any]) -> LogRecord:
        """Read the members; unknown ones (of a newer release) are ignored."""
        return cls(float(raw["time"]), raw.get("generation"), str(raw.get("role", "")), str(raw.get("text", "")))

    def to_text(self, *, colours: bool = False) -> str:
        """`2026-11-24 04:40:12 g3 web.1 | text`, safe to show on a terminal."""
        when = datetime.datetime.fromtimestamp(self.time).strftime("%Y-%m-%d %H:%M:%S")
        origin = self.role if self.generation is None else f"g{self.generation} {self.role}"
        return f"{when} {origin} | {printable(self.text, colours=colours)}"


def printable(text: str, *, colours: bool = False) -> str:
    """Escape control characters of foreign output; colour sequences stay only where `colours` is true."""
    text = _CONTROL.sub(lambda match: f"\\x{ord(match[0][0]):02x}", text)
    return text if colours else _COLOUR.sub("", text)
