"""The recipe's dances with zerglings of ours on a pool of ours: nothing fails, and no mule is ever there twice."""

from __future__ import annotations

import http.client
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from harness.nginx import nginx
from harness.recipe import NAMES, Member, Recipe
from harness.waiting import wait_for

from load.ledger import Outcome, Report
from load.process import LoadProcess
from load.target import Target

CLIENTS = {
    "busy": {"count": 2, "pause": 0.02},
    "new": {"count": 2, "pause": 0.02},
    "idle": {"count": 2},
    "gated": {"count": 1, "hold": 1.0},
}


@pytest.fixture
def recipe(folder: Path, request: pytest.FixtureRequest) -> Iterator[Recipe]:
    recipe = Recipe(folder)
    try:
        yield recipe
    finally:
        recipe.clean_up()
        if request.session.testsfailed:
            print(recipe.evidence())


def load(recipe: Recipe, port: int = 0) -> LoadProcess:
    folder = recipe.root / "load"
    folder.mkdir()
    (folder / "gates").symlink_to(recipe.gates)
    return LoadProcess(folder, Target(port=port or recipe.http), CLIENTS, keep_alive=5.0).start()


def check(report: Report) -> None:
    print(report.table())
    assert not report.failures, report.table()
    assert not report.select(Outcome.CLOSED_IDLE), report.table()
    assert report.select(Outcome.OK), "there was no load"


def alone(recipe: Recipe, member: Member, suffix: str = "") -> None:
    """Only this zergling serves, and it has every mule."""
    wait_for("mules are active", lambda: member.handlers(suffix) == dict.fromkeys(NAMES, "active"))
    wait_for("two mules live", lambda: len(recipe.mules()) == 2)


@pytest.mark.long
@pytest.mark.parametrize("rounds", [10])
def test_the_recipe_as_written(recipe: Recipe, rounds: int) -> None:
    """Double dance under load: B without mules ends A, A comes again and ends B."""
    recipe.up(recipe.pool)
    a = recipe.up(recipe.zergling)
    alone(recipe, a)
    under_load = load(recipe)
    for _ in range(rounds):
        b = recipe.up(recipe.restarter)
        assert a.ended() == 0
        assert recipe.running.is_fifo()
        a = recipe.up(recipe.zergling)
        assert b.ended() == 0
        alone(recipe, a)
    check(under_load.stop())
    gaps = recipe.gaps()
    print(gaps)
    assert {number: len(found) for number, found in gaps.items()} == {1: rounds, 2: rounds}


@pytest.mark.parametrize("rounds", [1, pytest.param(10, marks=pytest.mark.long)])
def test_the_recipe_under_its_emperor(recipe: Recipe, rounds: int) -> None:
    """The whole recipe, by its own command lines. A is told to quit, and comes back without letting a mule go."""
    emperor = recipe.emperor()
    alone(recipe, emperor)
    pid = emperor.status()["pid"]
    under_load = load(recipe)
    for generation in range(2, 2 + rounds):
        (recipe.root / "server/release").write_text(f"release {generation}")
        b = recipe.up(recipe.restarter)
        assert b.ended() == 0
        wait_for("A serves alone", lambda: len(emperor.status()["generations"]) == 1, 30)
        assert emperor.status()["web"]["live_generation"] == generation and emperor.status()["pid"] == pid
        alone(recipe, emperor)
    check(under_load.stop())
    gaps = recipe.gaps()
    print(gaps)
    assert {number: len(found) for number, found in gaps.items()} == {1: rounds, 2: rounds}
    assert max(max(found) for found in gaps.values()) < 0.15, gaps
    emperor.process.send_signal(signal.SIGINT)
    assert emperor.ended(40) == 0
    assert not recipe.mules()


@pytest.mark.long
def test_the_recipe_behind_nginx(recipe: Recipe) -> None:
    """Without the http lines: nginx speaks the uwsgi protocol with the pool's socket."""
    pool = "".join(line for line in recipe.pool.read_text().splitlines(True) if "http" not in line)
    recipe.pool.write_text(pool)
    emperor = recipe.emperor()
    alone(recipe, emperor)
    location = f"location / {{ include uwsgi_params; uwsgi_pass 127.0.0.1:{recipe.uwsgi}; uwsgi_next_upstream off; }}"
    with nginx(recipe.root / "nginx", location) as front:
        under_load = load(recipe, front.port)
        for generation in (2, 3):
            b = recipe.up(recipe.restarter)
            assert b.ended() == 0
            wait_for("A serves alone", lambda: len(emperor.status()["generations"]) == 1, 30)
            assert emperor.status()["web"]["live_generation"] == generation
            alone(recipe, emperor)
        check(under_load.stop())
        assert not front.complaints()
    assert max(max(found) for found in recipe.gaps().values()) < 0.15


@pytest.mark.long
def test_a_broken_release_under_the_emperor_leaves_the_restarter(recipe: Recipe) -> None:
    """A can't come back: B serves on, A's mules work on in the old code, and the repaired release is taken."""
    emperor = recipe.emperor()
    alone(recipe, emperor)
    under_load = load(recipe)
    build = recipe.root / "server/lib/web/buildapp.py"
    good = build.read_text()
    broken = "import os\nassert os.environ['INSTAR_APP'] != 'vassal-zergling', 'broken release'\n"
    build.write_text(broken + good)
    b = recipe.up(recipe.restarter)
    wait_for("A has tried", lambda: "restart: rolled-back" in emperor.log(), 30)
    assert b.alive and len(recipe.mules()) == 2
    build.write_text(good)
    assert b.ended(60) == 0
    alone(recipe, emperor)
    check(under_load.stop())
    assert max(max(found) for found in recipe.gaps().values()) < 0.15


@pytest.mark.long
def test_a_single_dance_with_mules_on_both_sides(recipe: Recipe) -> None:
    """What uWSGI can't do. The successor's mules take over within 50 ms."""
    file = recipe.restarter_with_mules()
    recipe.up(recipe.pool)
    a = recipe.up(recipe.zergling)
    alone(recipe, a)
    under_load = load(recipe)
    b = recipe.up(file)
    assert a.ended() == 0
    alone(recipe, b)
    c = recipe.up(recipe.zergling)
    assert b.ended() == 0
    alone(recipe, c)
    check(under_load.stop())
    gaps = recipe.gaps()
    print(gaps)
    assert {number: len(found) for number, found in gaps.items()} == {1: 2, 2: 2}
    # The mule's own start belongs to it: its script is read, compiled and begins.
    assert max(max(found) for found in gaps.values()) < 0.15, gaps


def test_two_restarts_at_once_take_turns(recipe: Recipe) -> None:
    recipe.up(recipe.pool)
    a = recipe.up(recipe.zergling)
    first, second = recipe.start(recipe.restarter), recipe.start(recipe.restarter)
    assert a.ended() == 0
    wait_for("one of the two ends", lambda: not (first.alive and second.alive))
    stays, went = (first, second) if first.alive else (second, first)
    assert went.process.returncode == 0, went.said()
    wait_for("the other serves", lambda: stays.serving() or stays.serving(".2"))
    # And it can be told: the next dance ends it.
    recipe.up(recipe.zergling)
    assert stays.ended() == 0


@pytest.mark.long
def test_a_touch_of_the_running_zergling_is_a_handover(recipe: Recipe) -> None:
    """Its hooks, which run once, don't make generation 2 quit its own supervisor."""
    recipe.up(recipe.pool)
    a = recipe.up(recipe.zergling)
    under_load = load(recipe)
    with recipe.running.open("w") as fifo:
        fifo.write("r")
    wait_for("generation 2 serves", lambda: a.status()["web"]["live_generation"] == 2)
    wait_for("it is alone", lambda: len(a.status()["generations"]) == 1)
    alone(recipe, a)
    b = recipe.up(recipe.restarter)
    assert a.ended() == 0 and b.alive
    check(under_load.stop())
    assert [gap for found in recipe.gaps().values() for gap in found if gap > 0.15] == []


@pytest.mark.long
def test_a_broken_successor_never_replaces_a_good_one(recipe: Recipe) -> None:
    recipe.up(recipe.pool)
    a = recipe.up(recipe.zergling)
    (recipe.root / "server/lib/web/buildapp.py").write_text("raise RuntimeError('broken release')\n")
    b = recipe.start(recipe.restarter)
    assert b.ended() == 1
    assert "broken release" in b.said()
    assert a.serving()
    alone(recipe, a)


@pytest.mark.long
def test_names_that_another_zergling_holds_are_waited_for(recipe: Recipe) -> None:
    """Without the hook nobody quits: both serve, and one of them says that its mules wait."""
    text = recipe.restarter_with_mules().read_text().replace("writefifo:", "print:")
    quiet = recipe.root / "config/quiet.yml"
    quiet.write_text(text)
    recipe.up(recipe.pool)
    a = recipe.up(recipe.zergling)
    alone(recipe, a)
    b = recipe.up(quiet)
    wait_for("B's mules wait", lambda: b.handlers() == dict.fromkeys(NAMES, "waiting"))
    assert a.alive
    # A new generation of B waits as well.
    result = b.handover().result()
    assert result["outcome"] == "done" and not result["kept"], result
    assert b.handlers() == dict.fromkeys(NAMES, "waiting")
    os.kill(a.pid, signal.SIGTERM)
    assert a.ended() == 0
    alone(recipe, b)
    assert max(max(found) for found in recipe.gaps().values()) < 0.15


@pytest.mark.long
def test_the_same_file_twice(recipe: Recipe) -> None:
    """A dance with one file for both sides: the second has a state directory of its own."""
    recipe.up(recipe.pool)
    a = recipe.up(recipe.zergling)
    b, suffix = recipe.up_beside(recipe.zergling)
    assert a.ended() == 0
    alone(recipe, b, suffix)


@pytest.mark.long
def test_a_zergling_follows_one_whose_supervisor_was_killed(recipe: Recipe) -> None:
    """The orphans serve on and hold the mules' names, until the new one sends them away."""
    recipe.up(recipe.pool)
    a = recipe.up(recipe.zergling)
    alone(recipe, a)
    under_load = load(recipe)
    a.process.kill()
    a.ended()
    assert len(recipe.mules()) == 2
    b, suffix = recipe.up_beside(recipe.zergling)
    alone(recipe, b, suffix)
    wait_for("nothing of A is left", lambda: not recipe.processes_of(a.state_dir / "app"), 30)
    check(under_load.stop())
    gaps = recipe.gaps()
    print(gaps)
    assert max(max(found) for found in gaps.values()) < 0.15, gaps
    # The next one has the first directory again.
    c = recipe.up(recipe.zergling)
    assert b.ended() == 0
    alone(recipe, c)


def test_die_on_term_and_the_hooks_signals_are_graceful(recipe: Recipe) -> None:
    """A stop waits for the request that is under way."""
    recipe.up(recipe.pool)
    a = recipe.up(recipe.zergling)
    slow = http.client.HTTPConnection("127.0.0.1", recipe.http, timeout=20)
    slow.request("GET", "/gate?n=slow")
    wait_for("the request is under way", lambda: _in_flight(a) == 1)
    os.kill(a.pid, signal.SIGINT)
    wait_for("it is stopping", lambda: a.status()["state"] == "stopping")
    assert len(recipe.mules()) == 2, "nobody waits for the names: the mules work on"
    (recipe.gates / "slow").touch()
    assert slow.getresponse().status == 200
    slow.close()
    assert a.ended() == 0
    assert not recipe.running.exists(), "a clean end takes its FIFO along"


def _in_flight(member: Member) -> int:
    return sum(worker["in_flight"] for item in member.status()["generations"] for worker in item["workers"])
