"""A vassal that is told to quit: when it comes back instead, and that it goes on trying."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from instar.errors import BusyError, ConfigError
from instar.uwsgi import comeback
from instar.uwsgi.comeback import Comeback


class FakeDraining:
    def __init__(self, generation: Any, _frontend: Any) -> None:
        self.generation = generation

    def stop_accepting(self) -> None:
        self.generation.trace.append("stops accepting")

    def begin(self) -> None:
        self.generation.trace.append("drains")


class World:
    """A supervisor whose restarts end as told."""

    def __init__(self, *outcomes: Any, names: bool = True) -> None:
        self.trace: list[str] = []
        self.outcomes = list(outcomes)
        self.stopping = False
        self.registry = SimpleNamespace(
            live=SimpleNamespace(trace=self.trace),
            frontend=None,
            names=SimpleNamespace(owner={"main.jobs.1": None} if names else {}),
        )
        self.operations = SimpleNamespace(restart=self._restart, handover=None)
        self.log = SimpleNamespace(write=lambda text: self.trace.append(text) if "cannot" in text else None)
        host: Any = self
        self.comeback = Comeback(host, lambda: self.trace.append("leaves clients"))

    def _restart(self, _options: Any) -> Any:
        outcome = self.outcomes.pop(0)
        self.trace.append("restart")
        if isinstance(outcome, Exception):
            raise outcome

        async def wait() -> dict[str, str]:
            return {"outcome": outcome}

        return SimpleNamespace(wait=wait)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(comeback, "Draining", FakeDraining)
    monkeypatch.setattr(comeback, "_FIRST_PAUSE", 0.001)


def _world(*outcomes: Any, **options: Any) -> tuple[Any, list[asyncio.Task[None]]]:
    made: Any = World(*outcomes, **options)
    running: list[asyncio.Task[None]] = []

    def spawn(work: Any, name: str) -> None:
        running.append(asyncio.create_task(work))

    made.tasks = SimpleNamespace(spawn=spawn)
    return made, running


LEAVES = ["stops accepting", "drains", "restart"]


async def test_it_leaves_the_clients_before_the_new_code_boots() -> None:
    made, running = _world("done")
    assert made.comeback.begin() and made.comeback.begin(), "the second changes nothing"
    await asyncio.gather(*running)
    assert made.trace == ["leaves clients", *LEAVES]
    assert not made.comeback.anew


async def test_it_goes_on_trying() -> None:
    made, running = _world("rolled-back", ConfigError("cannot read x"), BusyError("cannot restart"), "done")
    assert made.comeback.begin()
    await asyncio.gather(*running)
    assert made.trace == ["leaves clients", *LEAVES, *LEAVES, "cannot read x", *LEAVES, *LEAVES]
    # The next request begins anew.
    made.outcomes.append("done")
    assert made.comeback.begin()
    await asyncio.gather(*running)
    assert made.trace.count("leaves clients") == 2


async def test_it_ends_when_it_is_stopped_meanwhile() -> None:
    made, running = _world("rolled-back")
    assert made.comeback.begin()
    made.stopping = True
    await asyncio.wait_for(asyncio.gather(*running), 5)
    assert made.trace == ["leaves clients"]
    assert not made.comeback.begin()


async def test_without_mules_or_before_it_serves_it_ends() -> None:
    made, running = _world(names=False)
    assert not made.comeback.begin()
    made, running = _world()
    made.registry.live = None
    assert not made.comeback.begin() and not running
