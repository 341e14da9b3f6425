"""What clients have seen, judged: nothing may fail but what a killed process had in its hands."""

from __future__ import annotations

import collections
from collections.abc import Collection, Sequence

from chaos.killing import Killed
from load.ledger import Outcome, Record, Report
from load.purity import Switch, impurities

#: A client learns of the death of its connection at once; this much later on a machine that does other things (s).
NEWS = 5.0


def check_clients(report: Report, killed: Sequence[Killed], clients: Collection[str]) -> dict[Killed, int]:
    """Every failed request was on a connection that a killed process had accepted; how many for each process."""
    costs: collections.Counter[Killed] = collections.Counter()
    unexplained: list[Record] = []
    for record in report.select(Outcome.FAILED, Outcome.CLOSED_IDLE):
        culprit = next((item for item in killed if _explains(item, record)), None)
        if culprit is None:
            unexplained.append(record)
        elif record.outcome is Outcome.FAILED:
            costs[culprit] += 1
    assert not unexplained, "\n".join([f"{len(unexplained)} unexplained", *map(str, unexplained[:20]), report.table()])
    assert not [text for text in impurities(report, 0, _NOTHING) if "two processes" in text], report.table()
    for client in clients:
        assert report.count(client), f"{client} had no answer\n{report.table()}"
    return dict(costs)


_NOTHING: tuple[Switch, ...] = ()


def _explains(item: Killed, record: Record) -> bool:
    return record.port in item.ports and record.connect_started < item.at and item.at <= record.ended <= item.at + NEWS
