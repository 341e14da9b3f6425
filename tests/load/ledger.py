"""What happened, request by request, and the report made of it."""

from __future__ import annotations

import collections
import dataclasses
import enum
import json
import time
from pathlib import Path
from typing import Any, Self


class Outcome(enum.StrEnum):
    """How a request ended; the package's docstring defines the words."""

    OK = "ok"
    FAILED = "failed"
    RESENT = "resent"
    CLOSED_IDLE = "closed_idle"
    EXPIRED = "expired"


@dataclasses.dataclass(frozen=True)
class Record:
    """One request. Times are `time.monotonic()`, which all processes of a host share."""

    client: str
    outcome: Outcome
    #: Connections are numbered from 1; `connect_started` is before its connect(2).
    connection: int
    connect_started: float
    started: float
    ended: float
    generation: int
    process: int
    detail: str = ""
    #: Our end of the connection: whose it was is known of a process that was killed (0: there was none).
    port: int = 0

    def row(self) -> list[Any]:
        """Compact form for the report."""
        return list(dataclasses.astuple(self))


@dataclasses.dataclass
class Ledger:
    """All records of a run and counts of other things worth telling."""

    records: list[Record] = dataclasses.field(default_factory=list)
    notes: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)
    _seen: set[str] = dataclasses.field(default_factory=set)

    def add(self, record: Record) -> None:
        """Enter one record."""
        self.records.append(record)
        if record.outcome is Outcome.OK:
            self._seen.add(record.client)

    def answered(self, clients: set[str]) -> bool:
        """Whether each of these client classes has had a good response."""
        return clients <= self._seen

    def write(self, path: Path) -> None:
        """Write the report."""
        rows = [record.row() for record in self.records]
        path.write_text(json.dumps({"written": time.monotonic(), "notes": self.notes, "records": rows}))


@dataclasses.dataclass
class Report:
    """A ledger as read back by a test."""

    records: list[Record]
    notes: dict[str, int]

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read what `Ledger.write` wrote."""
        raw = json.loads(path.read_text())
        return cls([Record(row[0], Outcome(row[1]), *row[2:]) for row in raw["records"]], raw["notes"])

    def select(self, *outcomes: Outcome) -> list[Record]:
        """Records with one of these outcomes."""
        return [record for record in self.records if record.outcome in outcomes]

    @property
    def failures(self) -> list[Record]:
        """Failed requests."""
        return self.select(Outcome.FAILED)

    def count(self, client: str, outcome: Outcome = Outcome.OK) -> int:
        """Requests of one client class with one outcome."""
        return sum(1 for record in self.records if record.client == client and record.outcome is outcome)

    def generations(self) -> set[int]:
        """Generations that answered."""
        return {record.generation for record in self.select(Outcome.OK)} - {0}

    def table(self) -> str:
        """Counts by client class, the notes, and the first failures: for a test's message."""
        counts: dict[str, collections.Counter[str]] = collections.defaultdict(collections.Counter)
        for record in self.records:
            counts[record.client][record.outcome.value] += 1
        lines = [f"{client:12} {dict(found)}" for client, found in sorted(counts.items())]
        lines.append(f"notes        {self.notes}")
        bad = self.select(Outcome.FAILED, Outcome.CLOSED_IDLE)
        lines += [_line(record) for record in bad[:40]]
        return "\n".join(lines)


def _line(record: Record) -> str:
    times = f"connected {record.connect_started:.3f} started {record.started:.3f} ended {record.ended:.3f}"
    who = f"{record.client} connection {record.connection} port {record.port} g{record.generation} pid {record.process}"
    return f"{record.outcome.value}: {who} {times}: {record.detail}"
