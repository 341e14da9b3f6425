"""Orders of events that once went wrong, each played step by step in the simulated world (handler_world)."""

from __future__ import annotations

import importlib.util
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

_SPEC = importlib.util.spec_from_file_location("handler_world", Path(__file__).with_name("handler_world.py"))
assert _SPEC is not None and _SPEC.loader is not None
handler_world: Any = importlib.util.module_from_spec(_SPEC)
sys.modules["handler_world"] = handler_world
_SPEC.loader.exec_module(handler_world)


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A generation that holds every name."""
    made = handler_world.World(monkeypatch)
    made.handover()
    made.settle()
    yield made
    made.close()


def test_a_holder_that_dies_while_its_successor_boots_makes_way(world: Any) -> None:
    """The fresh process is well: the holder's end must not be taken for its failure."""
    (generation,) = world.generations
    (old,) = world.kernel.holders("one")
    world.spawn("renew one", world.names.renew("one", generation))
    generation.zygote.turn()
    world.kernel.end(old, 1)
    generation.zygote.turn()
    while generation.deliver():
        world.pump()
    world.settle()
    _, task = world.tasks[-1]
    assert task.result() is True
    (fresh,) = world.kernel.holders("one")
    assert fresh.pid > old.pid


def test_a_successor_that_dies_in_its_boot_is_told(world: Any) -> None:
    (generation,) = world.generations
    (old,) = world.kernel.holders("one")
    generation.trouble["one"] = "boot"
    world.spawn("renew one", world.names.renew("one", generation))
    while world.step():
        pass
    _, task = world.tasks[-1]
    assert "handler one exited with status 1" in str(task.exception())
    assert world.kernel.holders("one") == [old]


def test_a_killed_holder_is_replaced_by_the_standby_that_waits(world: Any) -> None:
    (generation,) = world.generations
    (old,) = world.kernel.holders("two")
    world.spawn("renew two", world.names.renew("two", generation))
    world.kernel.signal(old.pid, signal.SIGKILL)
    world.settle()
    _, task = world.tasks[-1]
    assert task.result() is True
    assert len(world.kernel.holders("two")) == 1


def test_a_successor_that_has_the_name_before_anybody_is_told_that_it_waited_for_it(world: Any) -> None:
    """In its own generation it is armed from the start; with the lock free, both messages come at once."""
    (generation,) = world.generations
    (old,) = world.kernel.holders("one")
    world.spawn("renew one", world.names.renew("one", generation))
    generation.zygote.turn()
    world.kernel.end(old, 1)
    generation.zygote.turn()
    (fresh,) = (item for item in world.kernel.processes.values() if item.alive and item.spec.name == "one")
    while world.kernel.run(fresh):
        generation.zygote.turn()
    assert world.kernel.holders("one") == [fresh]
    while generation.deliver():
        pass
    world.pump()
    _, task = world.tasks[-1]
    assert task.result() is True
    assert world.kernel.holders("one") == [fresh]


def test_a_successor_that_took_a_replaced_lock_file_is_not_asked_to_leave(world: Any) -> None:
    """The old holder has lost the name without knowing; only it has to go."""
    (generation,) = world.generations
    (old,) = world.kernel.holders("one")
    world.kernel.signal(old.pid, signal.SIGSTOP)
    world.kernel.queues["one"].remove(old)
    world.spawn("renew one", world.names.renew("one", generation))
    while world.step():
        pass
    world.kernel.signal(old.pid, signal.SIGCONT)
    while world.step():
        pass
    _, task = world.tasks[-1]
    assert task.result() is True
    (fresh,) = world.kernel.holders("one")
    assert fresh is not old
    assert not fresh.release.readable


def test_a_kept_name_whose_next_two_zygotes_die_is_held_again(world: Any) -> None:
    """The standby of the second took it, and nobody was left to tell: it has to be asked to leave all the same."""
    (first,) = world.generations
    (holder,) = world.kernel.holders("keep")
    world.handover()
    first.zygote.die()
    world.step()
    world.kernel.signal(holder.pid, signal.SIGSTOP)
    # Boot, stop_timeout, grace.
    for seconds in (0.0, 11.0, 3.0):
        world.kernel.now += seconds
        world.pump()
        for _ in range(24):
            world.step()
    assert not world.busy
    second = world.generations[-1]
    assert world.names.owner["keep"] is first, "the stopped holder keeps it"
    second.zygote.die()
    # The holder wakes, hears that it was asked to leave, and does: the name passes with no zygote left to tell of it.
    world.settle()
    owner = world.names.owner["keep"]
    (now,) = world.kernel.holders("keep")
    assert now.zygote is owner.zygote
