"""Decisions on workers: back-off, stuck, overdue, worn out, quiet."""

from __future__ import annotations

import dataclasses

import pytest

from instar.engines.base import EngineOptions
from instar.runtime import fleet
from instar.runtime.fleet import Backoff, Seat, Worker
from instar.runtime.nursery import Child
from instar.runtime.scoreboard import Column, Scoreboard
from instar.runtime.spec import GenerationSpec, ListenerSpec, StaticMap

SECOND = 10**9

SPEC = GenerationSpec(
    generation=3,
    app_name="main",
    target="app:app",
    factory=False,
    interface="auto",
    chdir="/srv/app",
    pythonpath=("/srv/lib",),
    slot="a",
    workers=2,
    engine="granian",
    options=EngineOptions(threads=4),
    listeners=(ListenerSpec("127.0.0.1:1", "tcp", (5, 6), (7, 8)),),
    control_fd=3,
    scoreboard_fd=4,
    output_dir="/tmp/output",
    nonce="secret",
    static=(StaticMap("/static", "/srv/static"),),
)


@pytest.fixture
def board() -> Scoreboard:
    return Scoreboard.create(4)


def worker(index: int = 0, row: int = 0) -> Worker:
    return Worker(index, row, Child(100 + row, -1, 0, 0.0))


def test_the_spec_comes_back_from_json_and_ignores_what_it_does_not_know() -> None:
    text = SPEC.to_json()
    assert GenerationSpec.from_json(text) == SPEC
    newer = text[:-1] + ', "invented_later": 1}'
    assert GenerationSpec.from_json(newer) == SPEC


def test_the_first_respawn_is_immediate_then_delays_double_up_to_a_limit() -> None:
    backoff = Backoff()
    delays = [backoff.next_delay(lived=0.0) for _ in range(10)]
    assert delays == [0, 0.5, 1, 2, 4, 8, 16, 30, 30, 30]


def test_a_worker_that_lived_long_was_healthy() -> None:
    backoff = Backoff(failures=6)
    assert backoff.next_delay(lived=fleet.HEALTHY_AFTER) == 0
    assert backoff.next_delay(lived=1.0) == 0.5


def test_a_seat_has_two_rows_and_gives_out_the_free_one() -> None:
    seat = Seat(1)
    assert seat.free_row(2) == 1
    seat.current = worker(1, 1)
    assert seat.free_row(2) == 3
    seat.leaving = worker(1, 3)
    assert seat.free_row(2) is None
    seat.remove(seat.current)
    assert seat.free_row(2) == 1


def test_a_silent_process_or_event_loop_is_stuck(board: Scoreboard) -> None:
    one, now = worker(), 100 * SECOND
    assert fleet.stuck(one, board, SPEC, now) == ""
    board.set(0, Column.BEAT, now - 29 * SECOND)
    assert fleet.stuck(one, board, SPEC, now) == ""
    board.set(0, Column.LOOP_BEAT, now - 31 * SECOND)
    assert "event loop" in fleet.stuck(one, board, SPEC, now)
    board.set(0, Column.BEAT, now - 31 * SECOND)
    assert "process" in fleet.stuck(one, board, SPEC, now)
    assert fleet.stuck(one, board, dataclasses.replace(SPEC, heartbeat_timeout=0), now) == ""


def test_only_a_configured_limit_makes_a_request_overdue(board: Scoreboard) -> None:
    now = 100 * SECOND
    board.set(0, Column.OLDEST, now - 6 * SECOND)
    assert fleet.overdue(worker(), board, SPEC, now) == ""
    assert fleet.overdue(worker(), board, dataclasses.replace(SPEC, request_timeout=7), now) == ""
    assert "5 s" in fleet.overdue(worker(), board, dataclasses.replace(SPEC, request_timeout=5), now)


def test_worn_out_by_requests_is_spread_over_the_workers(board: Scoreboard) -> None:
    spec = dataclasses.replace(SPEC, max_requests=100, max_requests_jitter=50)
    board.set(0, Column.REQUESTS, 100)
    board.set(1, Column.REQUESTS, 124)
    assert "100 requests" in fleet.worn_out(worker(0, 0), board, spec)
    assert fleet.worn_out(worker(1, 1), board, spec) == ""
    board.set(1, Column.REQUESTS, 125)
    assert "125 requests" in fleet.worn_out(worker(1, 1), board, spec)


def test_worn_out_by_memory(board: Scoreboard) -> None:
    spec = dataclasses.replace(SPEC, max_memory=300 * 2**20)
    board.set(0, Column.MEMORY, 300 * 2**20)
    assert fleet.worn_out(worker(), board, spec) == ""
    board.set(0, Column.MEMORY, 301 * 2**20)
    assert "301 MiB" in fleet.worn_out(worker(), board, spec)


def test_quiet_needs_a_count_that_began_since_the_worker_left(board: Scoreboard) -> None:
    one = worker()
    one.surveys_before = 5
    board.set(0, Column.SURVEYS, 6)
    assert not fleet.quiet(one, board, besides_http2=False)
    board.set(0, Column.SURVEYS, 7)
    assert fleet.quiet(one, board, besides_http2=False)
    board.set(0, Column.CONNECTIONS, 1)
    assert not fleet.quiet(one, board, besides_http2=True)
    board.set(0, Column.HTTP2_CONNECTIONS, 1)
    assert fleet.quiet(one, board, besides_http2=True)
    assert not fleet.quiet(one, board, besides_http2=False)
    board.set(0, Column.IN_FLIGHT, 1)
    assert not fleet.quiet(one, board, besides_http2=True)
