"""What the application sees: `current_worker().draining`."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
import time

import pytest

import instar
from instar.runtime import current
from instar.runtime.drain import DrainState
from instar.runtime.scoreboard import Column, Drain, Scoreboard


@pytest.fixture
def state():
    state = DrainState(Scoreboard.create(2), 1)
    current.set_worker("main.a.2", 2, 5, state)
    yield state
    current._current = None


def test_outside_a_worker():
    with pytest.raises(current.NotAWorkerError, match="cannot tell"):
        instar.current_worker()


def test_identity_and_level(state):
    worker = instar.current_worker()
    assert (worker.name, worker.index, worker.generation) == ("main.a.2", 2, 5)
    assert not worker.draining.is_set() and state.level is Drain.LIVE
    state.board.set(0, Column.DRAIN, Drain.CLOSE)
    assert not worker.draining.is_set(), "that is another row"
    state.board.set(1, Column.DRAIN, Drain.CLOSE)
    assert worker.draining.is_set() and worker.draining and state.level is Drain.CLOSE and not state.ending
    state.board.drain = Drain.END_STREAMS
    assert state.ending and state.level is Drain.END_STREAMS


async def test_waiting(state):
    event = instar.current_worker().draining
    start = time.monotonic()
    assert event.wait(0.15) is False
    assert await event.wait_async(0.15) is False
    assert time.monotonic() - start >= 0.3
    waiter = asyncio.create_task(event.wait_async())
    thread = threading.Thread(target=event.wait)
    thread.start()
    await asyncio.sleep(0.05)
    state.board.drain = Drain.CLOSE
    assert await asyncio.wait_for(waiter, 2) is True
    thread.join(2)
    assert not thread.is_alive()


def test_callbacks_run_once_and_failures_are_logged(state, caplog):
    event = instar.current_worker().draining
    calls = []
    event.on_drain(lambda: calls.append("first"))
    event.on_drain(lambda: 1 // 0)
    event.on_drain(lambda: calls.append("third"))
    assert state.poll() is Drain.LIVE and calls == []
    state.board.drain = Drain.CLOSE
    assert state.poll() is Drain.CLOSE
    state.board.drain = Drain.END_STREAMS
    state.poll()
    assert calls == ["first", "third"]
    assert "on_drain callback failed" in caplog.text
    event.on_drain(lambda: calls.append("late"))
    assert calls[-1] == "late"


def test_post_fork_hooks_run_in_order(monkeypatch):
    monkeypatch.setattr(current, "_hooks", [])
    calls = []

    @instar.post_fork
    def first():
        calls.append(1)

    instar.post_fork(lambda: calls.append(2))
    current.run_post_fork_hooks()
    assert calls == [1, 2] and first is not None


def test_only_the_standard_library_is_loaded():
    code = (
        "import sys; import instar; instar.current_worker; import instar.middleware, instar.engines;"
        "import instar.runtime.middleware, instar.runtime.quiesce, instar.runtime.linger, instar.runtime.survey;"
        "[__import__(f'instar.engines.{n}') for n in instar.engines.MODULES.values()];"
        "bad = {'pydantic', 'typer', 'aiohttp', 'granian', 'uvicorn', 'gunicorn', 'servestatic'} & set(sys.modules);"
        "sys.exit(str(bad) if bad else 0)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
