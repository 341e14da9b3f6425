"""What `instar check` finds."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Literal

#: How a finding is marked for people.
MARKS = {"ok": "[green]ok[/]", "skipped": "[dim]skipped[/]", "warning": "[yellow]warning[/]", "error": "[red]error[/]"}

Level = Literal["ok", "skipped", "warning", "error"]


@dataclasses.dataclass(frozen=True)
class Finding:
    """One checked thing. `text` is a sentence; `detail` are lines of foreign output that explain it."""

    level: Level
    subject: str
    text: str
    detail: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, object]:
        """For `--json`."""
        return {"level": self.level, "subject": self.subject, "text": self.text, "detail": list(self.detail)}


def ok(subject: str, text: str) -> Finding:
    """All is well."""
    return Finding("ok", subject, text)


def error(subject: str, text: str, detail: Iterable[str] = ()) -> Finding:
    """It would not run."""
    return Finding("error", subject, text, tuple(detail))


def warning(subject: str, text: str) -> Finding:
    """It would run, and yet."""
    return Finding("warning", subject, text)


def skipped(subject: str, text: str) -> Finding:
    """Could not be checked now."""
    return Finding("skipped", subject, text)
