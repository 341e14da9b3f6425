"""Command line, tables (markdown, so that they go into the documentation as they are) and JSON of every program."""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

from bench.common import machine


@dataclasses.dataclass
class Table:
    """A title, column heads, and rows of printable cells."""

    title: str
    columns: list[str]
    rows: list[list[str]] = dataclasses.field(default_factory=list)

    def markdown(self) -> str:
        widths = [max(len(line[i]) for line in [self.columns, *self.rows]) for i in range(len(self.columns))]

        def line(cells: Sequence[str]) -> str:
            padded = [cells[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(cells[1:], widths[1:], strict=True))]
            return "| " + " | ".join(padded) + " |"

        rule = "|" + "|".join(("-" if i == 0 else "-:").rjust(w + 2, "-") for i, w in enumerate(widths)) + "|"
        return "\n".join([f"**{self.title}**", "", line(self.columns), rule, *map(line, self.rows)])


@dataclasses.dataclass
class Report:
    """What one program measured: tables for people, `data` for programs, `notes` for what was skipped and why."""

    name: str
    tables: list[Table] = dataclasses.field(default_factory=list)
    data: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    notes: list[str] = dataclasses.field(default_factory=list)
    load: dict[str, Any] = dataclasses.field(default_factory=dict)

    def markdown(self) -> str:
        parts = [table.markdown() for table in self.tables]
        if self.notes:
            parts.append("\n".join(f"- {note}" for note in self.notes))
        parts.append(
            f"Load average before {self.load['before']}, after {self.load['after']}; all CPUs "
            f"{self.load['busy']:.0%} busy, {self.load['steal']:.0%} stolen; {self.load['seconds']:.0f} s."
        )
        return "\n\n".join(parts)


@dataclasses.dataclass(frozen=True)
class Options:
    """The command line that all programs share."""

    quick: bool = False
    only: tuple[str, ...] = ()

    def wants(self, name: str) -> bool:
        """Whether `--only` lets this row through."""
        return not self.only or any(part in name for part in self.only)


def parser(description: str | None) -> argparse.ArgumentParser:
    """The options that every program has."""
    result = argparse.ArgumentParser(description=(description or "").split("\n\n")[0])
    result.add_argument("--quick", action="store_true", help="a short run: shows that it works, measures little")
    result.add_argument("--json", action="store_true", help="print one JSON object instead of tables")
    result.add_argument(
        "--only", action="append", default=[], metavar="PART", help="only rows whose name contains PART"
    )
    return result


def measure(run: Callable[[Options], Report], options: Options) -> Report:
    """Run one program and note the machine's load around it."""
    before, meter, begun = machine.load_average(), machine.BusyMeter(), time.monotonic()
    report = run(options)
    seconds = time.monotonic() - begun
    report.load = {"before": before, "after": machine.load_average(), "seconds": round(seconds, 1), **meter.read()}
    return report


def main(run: Callable[[Options], Report], description: str | None) -> None:
    """`python -m bench.NAME`."""
    arguments = parser(description).parse_args()
    report = measure(run, Options(arguments.quick, tuple(arguments.only)))
    facts = machine.describe()
    if arguments.json:
        print_json({"machine": facts, **dataclasses.asdict(report)})
    else:
        print(report.markdown(), end="\n\n")
        print(json.dumps(facts))


def print_json(value: Any) -> None:
    """One object on standard output; what could not be measured is null."""

    def known(part: Any) -> Any:
        if isinstance(part, dict):
            return {key: known(inner) for key, inner in part.items()}
        if isinstance(part, list):
            return [known(inner) for inner in part]
        return None if isinstance(part, float) and not math.isfinite(part) else part

    print(json.dumps(known(value)))


def say(text: str) -> None:
    """Progress, on standard error."""
    print(text, file=sys.stderr, flush=True)
