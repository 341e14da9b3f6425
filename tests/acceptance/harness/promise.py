"""The promise in one place: what every report must show after restarts under load."""

from __future__ import annotations

import time
from collections.abc import Collection, Sequence

from load.ledger import Outcome, Report
from load.purity import Switch, impurities

#: Client classes that hold a connection so long that they need not meet every generation of a short run.
_SELDOM = {"sse", "websocket", "h2", "h2gated", "upload"}


def check(report: Report, first: int, switches: Sequence[Switch], clients: Collection[str]) -> None:
    """No request failed, no idle connection was closed without a word, and every answer came from the right side."""
    table = report.table()
    assert not report.failures, f"failed requests\n{table}"
    closed = report.select(Outcome.CLOSED_IDLE)
    assert not closed, f"connections closed while idle, unannounced\n{table}"
    breaches = impurities(report, first, switches)
    assert not breaches, "\n".join([*breaches[:20], table])
    _check_reach(report, first, switches, clients, table)


def _check_reach(report: Report, first: int, switches: Sequence[Switch], clients: Collection[str], table: str) -> None:
    """The load must have met every generation, or its zero proves nothing."""
    for client in clients:
        assert report.count(client), f"{client} had no answer\n{table}"
    generations = [first, *(switch.new for switch in switches)]
    assert report.generations() == set(generations), table
    for client in set(clients) - _SELDOM:
        met = {record.generation for record in report.select(Outcome.OK) if record.client == client} - {0}
        assert not met or met >= set(generations[:-1]), f"{client} met only {met}\n{table}"
    assert {note for note in report.notes if "closed without GOAWAY" in note} == set(), table


def breathe(seconds: float = 1.0) -> None:
    """Let the load run on in a steady state: time passing is the point here, nothing is waited for."""
    time.sleep(seconds)
