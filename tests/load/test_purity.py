"""The check of version purity must find every breach, or its silence means nothing."""

from __future__ import annotations

import itertools

import pytest

from load.ledger import Outcome, Record, Report
from load.purity import Switch, impurities

_ids = itertools.count(1)
#: 1 serves until 10; asked for at 10, switched at 11, the last client of 1 gone at 15; then the same to 3.
SWITCHES = [Switch(1, 2, 10.0, 11.0, 15.0), Switch(2, 3, 20.0, 21.0, 25.0)]


def answer(generation: int, connected: float, ended: float, connection: int = 0, process: int = 7) -> Record:
    number = connection or next(_ids)
    return Record("new", Outcome.OK, number, connected, connected, ended, generation, process)


@pytest.mark.parametrize(
    "record",
    [
        answer(1, 5.0, 5.1),
        answer(1, 10.5, 10.6),
        answer(2, 10.5, 10.6),
        answer(1, 9.0, 14.0),
        answer(2, 11.1, 11.2),
        answer(2, 19.0, 24.0),
        answer(3, 21.1, 21.2),
    ],
    ids=str,
)
def test_right_answers(record: Record) -> None:
    assert impurities(Report([record], {}), 1, SWITCHES) == []


@pytest.mark.parametrize(
    "record",
    [
        answer(2, 5.0, 5.1),
        answer(1, 11.1, 11.2),
        answer(3, 11.1, 11.2),
        answer(1, 16.0, 16.1),
        answer(2, 21.1, 21.2),
        answer(2, 30.0, 30.1),
        answer(9, 5.0, 5.1),
    ],
    ids=str,
)
def test_wrong_answers(record: Record) -> None:
    assert impurities(Report([record], {}), 1, SWITCHES)


def test_one_connection_belongs_to_one_process() -> None:
    records = [answer(1, 9.0, 9.1, connection=1000), answer(1, 9.0, 9.2, connection=1000, process=8)]
    assert impurities(Report(records, {}), 1, SWITCHES)


def test_without_a_switch_only_the_first_generation_may_answer() -> None:
    assert impurities(Report([answer(1, 5.0, 50.0)], {}), 1, []) == []
    assert impurities(Report([answer(2, 5.0, 5.1)], {}), 1, [])


def test_the_way_back_to_a_kept_generation() -> None:
    switches = [Switch(1, 2, 10.0, 11.0), Switch(2, 1, 20.0, 20.1, 22.0)]
    good = [answer(1, 5.0, 5.1), answer(2, 15.0, 15.1), answer(1, 20.5, 20.6), answer(2, 19.9, 21.0)]
    assert impurities(Report(good, {}), 1, switches) == []
    assert impurities(Report([answer(2, 20.5, 20.6)], {}), 1, switches)
    assert impurities(Report([answer(2, 23.0, 23.1)], {}), 1, switches)
