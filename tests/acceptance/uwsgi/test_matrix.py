"""Every pool with every zergling: {our pool, uWSGI's} x {our zergling, uWSGI's} x {start, dance, kill}.

Asked over all that a pool offers: its uwsgi addresses (TCP and UNIX), and its http address.
"""

from __future__ import annotations

import contextlib
import os
import signal
from pathlib import Path

import pytest
from harness.processes import alive
from harness.waiting import wait_for
from zerg_world import Hammer, Started, ZergWorld

pytestmark = pytest.mark.usefixtures("needs_uwsgi")

KINDS = ("ours", "real")
PLACES = ("tcp", "unix", "http")
OTHER = {"ours": "real", "real": "ours"}
LONG = pytest.mark.long


@pytest.fixture(params=KINDS, ids=lambda kind: f"{kind}-pool")
def pool(request: pytest.FixtureRequest, zerg: ZergWorld) -> tuple[str, Started]:
    """A pool that serves. Ours has somebody who keeps its sockets, as an Emperor or systemd does."""
    if request.param == "ours":
        zerg.keep()
        return "ours", zerg.our_pool()
    return "real", zerg.real_pool()


def succeed(zerg: ZergWorld, kind: str, word: str, before: Started) -> Started:
    """The recipe's dance: the new one's hook tells the old one to quit by its FIFO."""
    hook = f"writefifo:{zerg.folder / before.log.stem / 'fifo'} q"
    after = zerg.zergling(kind, word, "--hook-accepting1-once", hook)
    assert before.ends() == 0
    return after


def kill_tree(pid: int) -> None:
    """SIGKILL for a process and all that it has started; waits for their end."""
    found = [pid]
    for parent in found:
        with contextlib.suppress(OSError):
            for path in Path(f"/proc/{parent}/task").glob("*/children"):
                found += map(int, path.read_text().split())
    for process in found:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)
    wait_for("all of them are gone", lambda: not any(map(alive, found)))


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: f"{kind}-zergling")
def test_start(zerg: ZergWorld, pool: tuple[str, Started], kind: str) -> None:
    one = zerg.zergling(kind, "one")
    assert [zerg.ask(place) for place in PLACES] == ["one"] * 3
    one.letter("q")
    assert one.ends() == 0
    # The sockets stay with the pool: what connects now waits for the next one.
    hammer = Hammer(zerg, ("tcp", "unix"), threads=1)
    zerg.zergling(kind, "two")
    hammer.answered("two")
    assert hammer.stop() >= 2


@LONG
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: f"{kind}-zergling")
def test_dance(zerg: ZergWorld, pool: tuple[str, Started], kind: str) -> None:
    """To one of the same kind, to the other kind, and back."""
    current = zerg.zergling(kind, "one")
    # uWSGI's own router is in the way of http, and not what is looked at.
    hammer = Hammer(zerg, PLACES if pool[0] == "ours" else PLACES[:2], threads=2)
    hammer.answered("one")
    for following, word in ((kind, "two"), (OTHER[kind], "three"), (kind, "four")):
        current = succeed(zerg, following, word, current)
        hammer.answered(word)
    assert [zerg.ask(place) for place in PLACES] == ["four"] * 3
    hammer.stop()


@LONG
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: f"{kind}-zergling")
def test_kill_the_pool(zerg: ZergWorld, pool: tuple[str, Started], kind: str) -> None:
    """What serves, serves on. Our pool comes back with the same sockets; uWSGI's can't."""
    which, process = pool
    one = zerg.zergling(kind, "one")
    hammer = Hammer(zerg, ("tcp", "unix"))
    hammer.answered("one")
    process.kill()
    hammer.answered("one")
    if which == "real":
        two = zerg.zergling(kind, "two", ready=False)
        assert two.ends() == 1
        again = zerg.our_pool(ready=kind == "ours")
        if kind == "ours":
            # A zergling of ours gives the sockets to a pool of ours that takes the place.
            assert zerg.ask("tcp") == "one"
        else:
            assert again.ends() == 1
            assert "cannot listen on" in again.text()
    else:
        zerg.our_pool()
        assert zerg.ask("http") == "one"
        succeed(zerg, kind, "two", one)
        hammer.answered("two")
    hammer.stop()


@LONG
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: f"{kind}-zergling")
def test_kill_a_zergling(zerg: ZergWorld, pool: tuple[str, Started], kind: str) -> None:
    """One of two is killed with all its processes; what has connected since is answered by the other."""
    one = zerg.zergling(kind, "one")
    kill_tree(one.pid)
    two = zerg.zergling(kind, "two")
    hammer = Hammer(zerg, ("tcp", "unix"), threads=2)
    hammer.answered("two")
    wait_for("only the new one answers", lambda: zerg.ask("http") == "two")
    assert [zerg.ask(place) for place in PLACES] == ["two"] * 3
    hammer.stop()
    two.letter("q")
    assert two.ends() == 0
