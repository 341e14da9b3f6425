"""Faults at random, restarts, load of every client class and jobs, all at once. A seed repeats the order.

Sixty in the long tests, three hundred by `make chaos`; `CHAOS_SEED=7 CHAOS_FAULTS=1000` as long as one likes.
"""

from __future__ import annotations

import collections
import os
import random
import secrets
from collections.abc import Iterator

import pytest
from chaos.flow import Flow
from chaos.proof import check_clients
from chaos.season import NAMES, Season
from harness.engines import ENGINES
from harness.handlers import all_active, pool
from harness.instance import Instance
from harness.project import Project
from ledger import Ledger, breaches, stale_rows

from load.process import LoadProcess

#: How long a name may be unheld is what the handlers' ledger test is for: here everything happens at once (seconds).
UNHELD = 60.0
ENGINE = next(engine for engine in ENGINES if engine.name == "granian-asgi")


@pytest.fixture
def ledger(project: Project) -> Iterator[Ledger]:
    """An instance with every client class, handlers that write a ledger, and jobs."""
    found = Ledger(project.root)
    ENGINE.configure(project)
    project.config["app"]["env"].update(found.environment)
    project.config["restart"].update(boot_timeout=10.0, drain_timeout=4.0, grace=0.3)
    pool(project, "warm", target="apps.named:threaded", count=2, stop_timeout=2.0, kill_timeout=1.0)
    pool(project, "jobs", count=2)
    project.config["jobs"] = {"pool": "jobs", "folder": str(project.root / "jobs")}
    project.config["jobs"]["store"] = f"sqlite:///{project.root / 'jobs.sqlite3'}"
    yield found
    found.close()


def season_of(instance: Instance, ledger: Ledger, faults: int, seed: int) -> None:
    """The whole thing; the seed and the counts are printed."""
    print(f"seed {seed}")
    season = Season(instance, seed)
    try:
        _run(season, instance, ledger, faults, seed)
    finally:
        instance.clean_up()
        season.disk.close()


def _run(season: Season, instance: Instance, ledger: Ledger, faults: int, seed: int) -> None:
    instance.start()
    all_active(instance, NAMES)
    order = [name for _ in range(-(-faults // len(season.faults))) for name in _shuffled(season.faults, season.chance)]
    clients = ENGINE.clients(instance.project)
    load = LoadProcess(instance.project.root, instance.project.target, clients, keep_alive=20.0)
    with load, Flow(instance.project, seed) as flow:
        for number, name in enumerate(order[:faults]):
            season.run(name)
            if number % 5 == 4:
                season.run(season.chance.choice(list(season.restarts)))
        report = load.stop()
        flow.stop()
        flow.check()
    costs = check_clients(report, season.killed, clients)
    assert breaches(ledger.lines(), UNHELD) == []
    assert stale_rows(ledger.store) == []
    assert season.count(*season.faults) == faults
    season.calm()
    _tell(season, costs, len(report.records), len(flow.jobs))


def _shuffled(names: dict[str, object], chance: random.Random) -> list[str]:
    order = list(names)
    chance.shuffle(order)
    return order


def _tell(season: Season, costs: dict[object, int], requests: int, jobs: int) -> None:
    counts = collections.Counter(step.what for step in season.steps)
    seconds = sum(step.seconds for step in season.steps)
    print(f"{len(season.steps)} steps in {seconds:.0f} s, {requests} requests, {jobs} jobs")
    print(f"lost with a killed process: {sum(costs.values())} requests, {len(season.killed)} kills")
    for what, count in sorted(counts.items()):
        print(f"{count:5} {what}")


@pytest.mark.timeout(200)
def test_some_faults(instance: Instance, ledger: Ledger) -> None:
    season_of(instance, ledger, faults=8, seed=secrets.randbelow(10_000))


@pytest.mark.long
@pytest.mark.timeout(3000)
def test_many_faults(instance: Instance, ledger: Ledger) -> None:
    seed = int(os.environ.get("CHAOS_SEED", secrets.randbelow(10_000)))
    season_of(instance, ledger, faults=int(os.environ.get("CHAOS_FAULTS", "60")), seed=seed)
