"""Names under handovers and faults, proved from what the handlers themselves write down.

Handlers of every kind (threads, asyncio, a script in a forked process and one in its own, a command that leaves a
daemon) append to one ledger. Meanwhile the
names are passed on in every way there is, and processes are ended, killed, stopped, and broken releases are tried. At
the end the ledger must show: no two epochs of a name at work at once, epochs that only grow, no name unheld for longer
than what had happened to it allows, and a database that no former holder has written to.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from harness.control import Handover
from harness.handlers import SCRIPT, act, all_active, light_web, misbehave, pool, restart, row, rows
from harness.instance import Instance
from harness.processes import alive, stopped
from harness.project import Project
from harness.waiting import wait_for
from ledger import ALL, Ledger, breaches, gaps, stale_rows

WARM = ("test.warm.1", "test.warm.2", "test.loop.1", "test.forked.1")
COLD = ("test.script.1", "test.daemon.1")
NAMES = WARM + COLD
#: Seconds that a name may be unheld, with much room for a machine that does other things: when it is passed on, or its
#: holder ended on its own or was killed.
USUAL = 4.0
#: A stopped holder is only ended after stop_timeout and kill_timeout.
STOPPED = USUAL + 0.6
#: A release that breaks takes its names along for a moment, several times until it is found out.
BROKEN = 10.0


@pytest.fixture
def ledger(project: Project) -> Iterator[Ledger]:
    """An empty ledger, and a project whose handlers write to it."""
    found = Ledger(project.root)
    light_web(project)
    project.config["app"]["env"].update(found.environment)
    project.config["restart"].update(grace=0.2, drain_timeout=5.0)
    pool(project, "warm", target="apps.named:threaded", count=2, stop_timeout=0.3, kill_timeout=0.3)
    pool(project, "loop", target="apps.named:looped", stop_timeout=0.3, kill_timeout=0.3)
    pool(project, "forked", script=SCRIPT, handover="warm", stop_timeout=0.3, kill_timeout=0.3)
    pool(project, "script", script=SCRIPT, stop_timeout=0.8, kill_timeout=0.3)
    pool(project, "daemon", command=[sys.executable, SCRIPT, "daemon"], stop_timeout=0.8, kill_timeout=0.3)
    yield found
    found.close()


class Season:
    """Handovers and faults of one test, counted; each waits until the names are held again."""

    def __init__(self, instance: Instance, ledger: Ledger, seed: int) -> None:
        self.instance, self.ledger = instance, ledger
        self.random = random.Random(seed)
        self.counts: dict[str, int] = {}
        self.handovers: dict[str, Callable[[], None]] = {
            "all": lambda: self.restart(),
            "handlers": lambda: self.restart("handlers"),
            "pool": lambda: self.restart(
                "handlers", pools=(self.random.choice(("warm", "loop", "forked", "script", "daemon")),)
            ),
            "renew": lambda: self.renew(self.random.choice(NAMES)),
            "pause": lambda: self.pause(self.random.choice(NAMES)),
        }
        self.faults: dict[str, Callable[[], None]] = {
            "TERM": lambda: self.end(signal.SIGTERM),
            "KILL": lambda: self.end(signal.SIGKILL),
            "KILL in a restart": self.end_in_a_restart,
            "STOP, wake": self.stop_and_wake,
            "STOP, move": self.stop_and_move,
            "crash in boot": self.crash_in_boot,
            "crash at takeover": self.crash_at_takeover,
            "two restarts": self.two_restarts,
        }

    def run(self, step: str) -> None:
        """Do one thing."""
        self.counts[step] = self.counts.get(step, 0) + 1
        do = {**self.handovers, **self.faults, "supervisor KILL": self.kill_supervisor}[step]
        began = time.monotonic()
        try:
            do()
            all_active(self.instance, NAMES)
        except AssertionError as error:
            done = sum(self.counts.values())
            raise AssertionError(f"step {done}, {step}, after {time.monotonic() - began:.2f} s: {error}") from None

    # --- handovers ---

    def restart(self, *parts: str, pools: tuple[str, ...] = ()) -> None:
        """Must go well; each name that belongs to it gets a new epoch."""
        before = rows(self.instance)
        result = restart(self.instance, *parts, pools=pools)
        assert result.get("outcome") == "done", result
        for name, old in before.items():
            passed = not pools or old["pool"] in pools
            now = row(self.instance, name)
            assert (now["generation"] == result["generation"]) is passed, (name, now, result)

    def renew(self, name: str) -> None:
        """A fresh process of the same code."""
        before = row(self.instance, name)
        result = act(self.instance, name, "restart")
        after = row(self.instance, name)
        assert result.get("outcome") == "done", result
        assert after["epoch"] > before["epoch"] and after["generation"] == before["generation"], (before, after)

    def pause(self, name: str) -> None:
        """Unheld on purpose."""
        with self.ledger.bound(name, 20.0):
            assert act(self.instance, name, "pause").get("outcome") == "done"
            assert row(self.instance, name)["state"] == "paused"
            assert act(self.instance, name, "resume").get("outcome") == "done"
            all_active(self.instance, NAMES)

    # --- faults ---

    def end(self, sig: signal.Signals) -> None:
        """The zygote replaces a handler that ended or was killed."""
        name = self.random.choice(NAMES)
        before = row(self.instance, name)
        os.kill(before["pid"], sig)
        self._replaced(name, before)

    def _replaced(self, name: str, before: dict[str, Any]) -> None:
        wait_for(f"{name} replaced", lambda: (row(self.instance, name)["epoch"] or 0) > before["epoch"], 20.0, 0.01)

    def end_in_a_restart(self) -> None:
        """A holder is killed at any moment of a restart, which goes well or is taken back."""
        name = self.random.choice(NAMES)
        self.restart()
        with self.ledger.bound(ALL, BROKEN):
            handover = self.instance.handover({"parts": ["handlers"]})
            handover.wait_stage("boot", self.random.choice(("started", "done")))
            time.sleep(self.random.random() * 0.3)
            with contextlib.suppress(ProcessLookupError, TypeError):
                os.kill(row(self.instance, name)["pid"], signal.SIGKILL)
            assert handover.result().get("outcome") in ("done", "rolled-back"), handover.story()
            all_active(self.instance, NAMES)

    def stop_and_wake(self) -> None:
        """A holder that sleeps and wakes up still has its name."""
        name = self.random.choice(WARM)
        before = row(self.instance, name)
        os.kill(before["pid"], signal.SIGSTOP)
        time.sleep(0.1)
        os.kill(before["pid"], signal.SIGCONT)
        self._beats(name, before["epoch"])
        assert row(self.instance, name)["epoch"] == before["epoch"]

    def _beats(self, name: str, epoch: int) -> None:
        now = time.monotonic()

        def beaten() -> bool:
            newest = self.ledger.newest(name)
            return newest is not None and newest.epoch == epoch and newest.time > now

        wait_for(f"{name} at work", beaten, 10.0, 0.02)

    def stop_and_move(self) -> None:
        """A stopped holder is killed before its name moves: there is nobody to wake up."""
        name = self.random.choice(WARM)
        before = row(self.instance, name)
        pidfd = os.pidfd_open(before["pid"])
        try:
            os.kill(before["pid"], signal.SIGSTOP)
            with self.ledger.bound(name, STOPPED):
                result = act(self.instance, name, "restart")
                assert result.get("outcome") == "done", result
                assert row(self.instance, name)["epoch"] > before["epoch"]
            with pytest.raises(ProcessLookupError):
                signal.pidfd_send_signal(pidfd, signal.SIGCONT)
        finally:
            os.close(pidfd)

    def crash_in_boot(self) -> None:
        """Nothing happens to the names."""
        before = rows(self.instance)
        misbehave(self.instance.project, "boot", pool="warm")
        result = restart(self.instance, *self.random.choice(((), ("handlers",))))
        self.instance.project.deploy("good")
        assert result.get("outcome") == "rolled-back" and "deliberate failure" in result["error"], result
        after = rows(self.instance)
        assert [after[name]["epoch"] for name in NAMES] == [before[name]["epoch"] for name in NAMES]

    def crash_at_takeover(self) -> None:
        """The names return to the release before."""
        self.restart()
        before = rows(self.instance)
        misbehave(self.instance.project, "takeover", pool=self.random.choice(("warm", "loop")))
        with self.ledger.bound(ALL, BROKEN):
            result = restart(self.instance, *self.random.choice(((), ("handlers",))))
            self.instance.project.deploy("good")
            assert result.get("outcome") == "rolled-back", result
            after = all_active(self.instance, NAMES)
        numbers = [after[name]["generation"] for name in NAMES]
        assert numbers == [before[name]["generation"] for name in NAMES], (before, after)

    def two_restarts(self) -> None:
        """One is done, the other refused or done after it."""
        pair = [Handover(self.instance.control, {"parts": ["handlers"]}) for _ in range(2)]
        results = [handover.result() for handover in pair]
        assert [result.get("outcome") for result in results].count("done") >= 1, results
        assert all(result.get("outcome") == "done" or "error" in result for result in results), results

    def kill_supervisor(self) -> None:
        """The handlers keep their names; one that is killed meanwhile is replaced; and all go on under the next."""
        before = rows(self.instance)
        self.instance.kill_supervisor()
        victim = self.random.choice(WARM)
        for name in NAMES:
            assert alive(before[name]["pid"]), f"{name} went with the supervisor"
            self._beats(name, before[name]["epoch"])
        os.kill(before[victim]["pid"], signal.SIGKILL)
        self._beats(victim, before[victim]["epoch"] + 1)
        self.instance.start()
        after = all_active(self.instance, NAMES)
        for name in set(NAMES) - {victim}:
            assert (after[name]["epoch"], after[name]["pid"]) == (before[name]["epoch"], before[name]["pid"])
        assert after[victim]["epoch"] == before[victim]["epoch"] + 1


def prove(ledger: Ledger, season: Season, handovers: int, faults: int) -> None:
    """What the ledger and the database must show, and that enough has happened to show anything."""
    lines = ledger.lines()
    assert breaches(lines, USUAL) == []
    assert stale_rows(ledger.store) == []
    assert sum(season.counts.get(step, 0) for step in season.handovers) >= handovers
    assert sum(season.counts.get(step, 0) for step in {**season.faults, "supervisor KILL": None}) >= faults
    assert len(gaps(lines)) >= handovers + faults // 2
    signs = {line.name for line in lines if line.epoch}
    assert signs == set(NAMES)


@pytest.mark.timeout(150)
def test_names_over_handovers_and_faults(instance: Instance, ledger: Ledger) -> None:
    instance.start()
    all_active(instance, NAMES)
    seed = random.SystemRandom().randrange(10_000)
    print(f"seed {seed}")
    season = Season(instance, ledger, seed)
    steps = [*season.handovers, *season.faults, "supervisor KILL"]
    steps += ["renew"] * 7 + ["handlers", "pool"] + ["KILL"] * 3 + ["TERM", "STOP, move", "STOP, wake"]
    season.random.shuffle(steps)
    for step in steps:
        season.run(step)
    prove(ledger, season, 14, 15)


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_names_over_two_hundred_handovers_and_faults(instance: Instance, ledger: Ledger) -> None:
    instance.start()
    all_active(instance, NAMES)
    season = Season(instance, ledger, seed=20260)
    for number in range(200):
        season.run(season.random.choice(list(season.handovers)))
        season.run("supervisor KILL" if number % 40 == 20 else season.random.choice(list(season.faults)))
    prove(ledger, season, 200, 200)


def test_a_stopped_holder_whose_lock_file_was_replaced_writes_nothing(instance: Instance, ledger: Ledger) -> None:
    """The one way in which a living holder loses its name: somebody has removed the state directory."""
    name = "test.warm.1"
    pool(instance.project, "warm", target="apps.named:threaded", stop_timeout=10.0)
    for other in ("loop", "forked", "script", "daemon"):
        del instance.project.config[f"handlers.{other}"]
    instance.start()
    old = all_active(instance, [name])[name]
    _stop_between_writes(old["pid"], ledger.store)
    (instance.state_dir / "app" / "handlers" / f"{name}.lock").unlink()
    handover = instance.handover({}, f"/v1/handlers/{name}/restart")
    wait_for("the successor is at work", lambda: _entered(ledger, name) > old["epoch"], 20.0)
    os.kill(old["pid"], signal.SIGCONT)
    assert handover.result().get("outcome") == "done", handover.story()
    all_active(instance, [name])
    assert [line.pid for line in ledger.lines() if line.what == "fenced"] == [old["pid"]]
    assert breaches(ledger.lines(), USUAL) == []
    assert stale_rows(ledger.store) == []


def test_names_return_to_a_generation_that_has_only_handlers(instance: Instance, ledger: Ledger) -> None:
    instance.start()
    assert restart(instance, "handlers").get("outcome") == "done"
    before = all_active(instance, NAMES)
    misbehave(instance.project, "takeover", pool="warm")
    assert restart(instance).get("outcome") == "rolled-back"
    after = all_active(instance, NAMES, limit=8.0)
    assert {item["generation"] for item in after.values()} == {item["generation"] for item in before.values()}


def _entered(ledger: Ledger, name: str) -> int:
    newest = ledger.newest(name)
    return newest.epoch if newest else 0


def _stop_between_writes(pid: int, store: Path) -> None:
    """Not inside a transaction, where it would keep the database locked."""
    import sqlite3

    while True:
        os.kill(pid, signal.SIGSTOP)
        # On a busy machine its threads go on for a while: each stops when it is scheduled next.
        wait_for("every thread has stopped", lambda: stopped(pid))
        connection = sqlite3.connect(store, timeout=1.0, isolation_level=None)
        try:
            connection.execute("BEGIN IMMEDIATE")
            connection.execute("ROLLBACK")
            return
        except sqlite3.OperationalError:
            os.kill(pid, signal.SIGCONT)
        finally:
            connection.close()
