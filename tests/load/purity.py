"""Whether every response came from a generation that was allowed to give it."""

from __future__ import annotations

import collections
import dataclasses
import math
from collections.abc import Iterator, Sequence

from load.ledger import Outcome, Record, Report


@dataclasses.dataclass(frozen=True)
class Switch:
    """A change of the serving generation, bounded by what the test saw (`time.monotonic()`)."""

    old: int
    new: int
    #: Before it was asked for: nothing can have switched yet.
    asked: float
    #: After the cut-over was reported: every connection that is made from now on goes to `new`.
    switched: float
    #: After the drain was reported: `old` answers nobody any more (infinite while it is kept).
    gone: float = math.inf


def impurities(report: Report, first: int, switches: Sequence[Switch]) -> list[str]:
    """Every breach, in words. `first` serves before the first switch."""
    good = [record for record in report.select(Outcome.OK) if record.generation]
    return [*_not_live(good, first, switches), *_wrong_side(good, first, switches), *_mixed(good)]


def _not_live(records: list[Record], first: int, switches: Sequence[Switch]) -> Iterator[str]:
    spans: dict[int, list[tuple[float, float]]] = collections.defaultdict(list)
    begin = {first: -math.inf}
    for switch in switches:
        spans[switch.old].append((begin.get(switch.old, -math.inf), switch.gone))
        begin[switch.new] = switch.asked
    last = switches[-1].new if switches else first
    spans[last].append((begin[last], math.inf))
    for record in records:
        if not any(start <= record.ended and record.started <= end for start, end in spans[record.generation]):
            yield f"{record.client}: generation {record.generation} was not live at {record.started:.3f}: {record}"


def _wrong_side(records: list[Record], first: int, switches: Sequence[Switch]) -> Iterator[str]:
    bounds = [(-math.inf, switches[0].asked if switches else math.inf, first)]
    for number, switch in enumerate(switches):
        until = switches[number + 1].asked if number + 1 < len(switches) else math.inf
        bounds.append((switch.switched, until, switch.new))
    for record in records:
        for start, end, generation in bounds:
            # A connection that was begun after the switch and answered before the next was asked for.
            if start < record.connect_started and record.ended < end and record.generation != generation:
                yield f"{record.client}: generation {record.generation} instead of {generation}: {record}"


def _mixed(records: list[Record]) -> Iterator[str]:
    seen: dict[int, Record] = {}
    for record in records:
        before = seen.setdefault(record.connection, record)
        if record.connection and (before.generation, before.process) != (record.generation, record.process):
            yield f"{record.client}: one connection, two processes: {before} and {record}"
