"""Zerglings of ours on the pool of the real uWSGI."""

from __future__ import annotations

import pytest
from zerg_world import Hammer, ZergWorld

pytestmark = pytest.mark.usefixtures("needs_uwsgi")


def test_start_and_dance(zerg: ZergWorld) -> None:
    """Ours, the real one, ours: over both sockets, and through uWSGI's own router."""
    zerg.real_pool()
    current = zerg.zergling("ours", "one")
    assert [zerg.ask(where) for where in ("tcp", "unix", "http")] == ["one"] * 3
    hammer = Hammer(zerg)
    for kind, word in (("ours", "two"), ("real", "three"), ("ours", "four")):
        following = zerg.zergling(kind, word)
        hammer.answered(word)
        current.letter("q")
        assert current.ends() == 0
        current = following
    assert [zerg.ask(where) for where in ("tcp", "unix", "http")] == ["four"] * 3
    assert hammer.stop() > 20


@pytest.mark.long
def test_the_real_pool_is_killed(zerg: ZergWorld) -> None:
    pool = zerg.real_pool()
    one = zerg.zergling("ours", "one")
    hammer = Hammer(zerg)
    hammer.answered("one")
    pool.kill()
    hammer.answered("one")
    # Nobody can attach any more, and is told why.
    two = zerg.zergling("ours", "two", ready=False)
    assert two.ends() == 1
    assert "cannot attach to the zerg pool" in two.text()
    assert "its pool has ended; start it again" in two.text()
    hammer.answered("one")
    hammer.stop()
    one.letter("q")
    assert one.ends() == 0


@pytest.mark.long
def test_without_a_pool(zerg: ZergWorld) -> None:
    one = zerg.zergling("ours", "one", ready=False)
    assert one.ends() == 1
    assert f"cannot attach to the zerg pool {zerg.pool_path}: no such socket; start the pool first" in one.text()
