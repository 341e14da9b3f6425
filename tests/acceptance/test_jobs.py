"""Jobs under restarts and SIGKILL: submitted by web workers, each ends once, and none is lost."""

from __future__ import annotations

import collections
import contextlib
import http.client
import importlib.util
import os
import random
import signal
import sqlite3
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

import pytest
from harness.control import Handover
from harness.handlers import all_active, pool, rows
from harness.instance import Instance, Said
from harness.processes import alive
from harness.project import Project
from harness.waiting import wait_for

from instar.errors import ExitCode
from instar.jobs import JobStore

sys.path.insert(0, str(Path(__file__).parents[1] / "unit" / "handlers"))

from postgres_server import NoPostgresError, server

NAMES = ("test.jobs.1", "test.jobs.2")
#: None: the request says nothing.
HANDLERS = (None, "", "_null_", *NAMES)
#: A new supervisor takes over what a killed one has left; else it has to be ended first.
ADOPTS = importlib.util.find_spec("instar.supervisor.adoption") is not None


@pytest.fixture
def with_jobs(project: Project) -> Project:
    """Web workers that submit, two handlers that run jobs; the store is SQLite."""
    project.config["app"]["target"] = "apps.submitting:app"
    project.config["app"]["env"]["TEST_RUNS"] = str(project.root / "runs")
    project.config["web"].pop("static", None)
    project.config["restart"].update(grace=0.2, drain_timeout=5.0)
    project.config["jobs"] = {"pool": "jobs", "folder": str(project.root / "jobs")}
    project.config["jobs"]["store"] = f"sqlite:///{project.root / 'jobs.sqlite3'}"
    pool(project, "jobs", count=2)
    return project


@pytest.fixture
def on_postgres(with_jobs: Project) -> Iterator[Project]:
    """The same with PostgreSQL."""
    pytest.importorskip("psycopg", reason="psycopg is not installed (pip install instar[postgres])")
    with contextlib.ExitStack() as stack:
        try:
            address = stack.enter_context(server())
        except NoPostgresError as error:
            pytest.skip(str(error))
        words = dict(word.split("=", 1) for word in address.split())
        with_jobs.config["jobs"]["store"] = f"postgresql:///postgres?host={quote(words['host'])}&user=postgres"
        yield with_jobs


def kill_supervisor(instance: Instance) -> None:
    """SIGKILL, and another one comes."""
    zygote = instance.live()["pid"]
    instance.kill_supervisor()
    if not ADOPTS:
        os.kill(zygote, signal.SIGTERM)
        wait_for("the end of the generation", lambda: not alive(zygote))
    instance.start()
    all_active(instance, NAMES, 40.0)


# One long job.


def long_job(with_jobs: Project, instance: Instance, restarts: int, seconds: float) -> None:
    """It counts until it is told to end, and ends with an exit code of its own."""
    root = with_jobs.root
    script = (
        f"echo run >>{root}/began; i=0; while [ ! -e {root}/go ]; do i=$((i+1)); echo $i; "
        'echo "{\\"done\\": $i}" >>$INSTAR_JOB_PROGRESS; sleep 0.05; done; echo last; exit 23'
    )
    instance.start()
    job = int(instance.command("jobs", "submit", "--json", "--", "sh", "-c", script).json["id"])
    wait_for("the job runs", (root / "began").exists)
    began = time.monotonic()
    killed = restarts // 2
    for number in range(restarts):
        assert instance.command("restart").code == 0
        if number == killed:
            kill_supervisor(instance)
    # Longer than all that, if it is to be.
    time.sleep(max(0.0, began + seconds - time.monotonic()))
    (root / "go").touch()
    said = instance.command("jobs", "wait", str(job), "--json", limit=40.0)
    found = instance.command("jobs", "show", str(job), "--json").json
    assert (found["state"], found["exit_code"], found["attempt"]) == ("error", 23, 1), (found, said)
    assert (root / "began").read_text() == "run\n"
    lines = instance.command("jobs", "logs", str(job)).out.split()
    assert lines == [*map(str, range(1, len(lines))), "last"]
    assert found["progress"] == {"done": len(lines) - 1}
    with contextlib.closing(sqlite3.connect(root / "jobs.sqlite3")) as database:
        whats = [row[0] for row in database.execute("SELECT what FROM instar_job_event WHERE job_id = ?", (job,))]
    assert whats.count("adopted") >= restarts


def test_a_job_over_restarts_and_a_killed_supervisor(with_jobs: Project, instance: Instance) -> None:
    long_job(with_jobs, instance, restarts=2, seconds=0.0)


@pytest.mark.long
@pytest.mark.timeout(300)
def test_a_job_of_30_s_over_five_restarts_and_a_killed_supervisor(with_jobs: Project, instance: Instance) -> None:
    long_job(with_jobs, instance, restarts=5, seconds=30.0)


# Many short ones.


class Clients:
    """Threads that have jobs submitted over HTTP, each number until it is acknowledged."""

    def __init__(self, project: Project, jobs: int, pause: float, seed: int) -> None:
        self._port = project.port
        self._pause = pause
        chance = random.Random(seed)
        self.handlers = [chance.choice(HANDLERS) for _ in range(jobs)]
        #: Job by number.
        self.acknowledged: dict[int, int] = {}
        #: Requests without an answer, or with one that the store is away.
        self.unanswered: collections.Counter[str] = collections.Counter()
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._work, args=(part,), daemon=True) for part in range(4)]

    def __enter__(self) -> Clients:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(40.0)

    def _work(self, part: int) -> None:
        for number in range(part, len(self.handlers), len(self._threads)):
            while not self._stop.is_set():
                try:
                    self.acknowledged[number] = self._ask(number)
                    break
                except (OSError, http.client.HTTPException, ValueError) as error:
                    self.unanswered[f"{type(error).__name__} {error}"[:60]] += 1
                    self._stop.wait(0.02)
            self._stop.wait(self._pause)

    def _ask(self, number: int) -> int:
        query: dict[str, Any] = {"n": number, "code": code(number)}
        if (handler := self.handlers[number]) is not None:
            query["handler"] = handler
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=20.0)
        try:
            connection.request("GET", f"/submit?{urlencode(query)}")
            # Anything but a number is no acknowledgement.
            return int(connection.getresponse().read())
        finally:
            connection.close()


def code(number: int) -> int:
    """The exit code of a job."""
    return number % 3


class Season:
    """What happens meanwhile."""

    def __init__(self, instance: Instance, chance: random.Random) -> None:
        self._instance = instance
        self._chance = chance
        self.counts: collections.Counter[str] = collections.Counter()

    def restart(self) -> None:
        """A whole restart, which must go well."""
        said = wait_for("the end of a recovery", self._restarted, 60.0)
        assert said.code == 0, said
        self.counts["restart"] += 1

    def _restarted(self) -> Said | None:
        """What it said, unless it was refused: a zygote that died is replaced in the same way, one at a time."""
        said = self._instance.command("restart")
        return None if said.code == ExitCode.BUSY else said

    def kill(self) -> None:
        """SIGKILL for a process of the application, at rest or in the middle of a restart."""
        victims = {"handler": self._handler, "zygote": self._zygote, "worker": self._worker}
        kinds = [*victims, "handler", "supervisor"] if ADOPTS else [*victims, "handler"]
        kind = self._chance.choice(kinds)
        if kind == "supervisor":
            kill_supervisor(self._instance)
        elif self._chance.random() < 0.5:
            handover = wait_for("the end of a recovery", self._handover, 60.0)
            handover.wait_stage("boot", self._chance.choice(("started", "done")))
            time.sleep(self._chance.random() * 0.3)
            victims[kind]()
            # The restart goes well or is taken back.
            assert handover.result(60).get("outcome") in ("done", "rolled-back"), handover.story()
        else:
            victims[kind]()
        self.counts[f"kill a {kind}"] += 1
        self._recovered()

    def _handover(self) -> Handover | None:
        """One that has begun, unless it was refused."""
        handover = self._instance.handover()
        wait_for("its first event", lambda: handover.events)
        return None if "error" in handover.events[0][1] else handover

    def _recovered(self) -> None:
        all_active(self._instance, NAMES, 40.0)
        wait_for("a zygote", lambda: alive(self._instance.live()["pid"] or 0))
        wait_for("workers", lambda: self._instance.workers() and all(map(alive, self._instance.workers())))

    def _handler(self) -> None:
        _kill(rows(self._instance)[self._chance.choice(NAMES)]["pid"])

    def _zygote(self) -> None:
        _kill(self._instance.live()["pid"])

    def _worker(self) -> None:
        _kill(self._chance.choice(self._instance.workers() or [0]))


def _kill(pid: int | None) -> None:
    with contextlib.suppress(ProcessLookupError):
        if pid:
            os.kill(pid, signal.SIGKILL)


def many_jobs(project: Project, instance: Instance, jobs: int, restarts: int, kills: int, pause: float) -> None:
    seed = random.SystemRandom().randrange(10_000)
    print(f"seed {seed}")
    chance = random.Random(seed)
    instance.start()
    all_active(instance, NAMES)
    season = Season(instance, chance)
    steps: list[Callable[[], None]] = [*[season.restart] * restarts, *[season.kill] * kills]
    chance.shuffle(steps)
    with Clients(project, jobs, pause, seed) as clients:
        for done, step in enumerate(steps):
            share = jobs * done // (len(steps) + 1)
            wait_for("submissions", lambda share=share: len(clients.acknowledged) >= share, 120.0)
            step()
        wait_for("all submissions", lambda: len(clients.acknowledged) == jobs, 120.0)
    print(dict(season.counts), dict(clients.unanswered))
    with JobStore.open(project.config["jobs"]["store"]) as store:
        # Whoever is to be found ended must have had the time: a job takes some milliseconds.
        wait_for("the end of all jobs", lambda: _ended(store) == jobs, 60.0 + jobs / 10, 0.2)
        check(store, clients, project.root / "runs")


def _ended(store: JobStore) -> int:
    states = store.stats().states
    return sum(states.get(name, 0) for name in ("ok", "error", "lost", "cancelled"))


def check(store: JobStore, clients: Clients, runs: Path) -> None:
    """Every number has one job, which began once, and ended with its own exit code."""
    lines = [tuple(map(int, line.split())) for line in runs.read_text().splitlines()]
    assert sorted(number for number, _, _ in lines) == list(range(len(clients.handlers)))
    ran = {number: (job, attempt) for number, job, attempt in lines}
    assert {number: job for number, (job, _) in ran.items()} == clients.acknowledged
    for number, (job, attempt) in ran.items():
        found = store.get(job)
        assert found.exit_code == code(number) and found.signal is None, found
        assert found.state == ("error" if code(number) else "ok"), found
        assert (found.attempt, found.attempt - found.uncounted) == (attempt, 1), found
        if clients.handlers[number] in NAMES:
            assert found.holder == clients.handlers[number], found


def there(store: str, request: pytest.FixtureRequest) -> tuple[Project, Instance]:
    """The store first, so that it is there until the instance has ended."""
    return request.getfixturevalue(store), request.getfixturevalue("instance")


@pytest.mark.timeout(300)
@pytest.mark.parametrize("store", ["with_jobs", "on_postgres"], ids=["sqlite", "postgresql"])
def test_jobs_of_web_workers(store: str, request: pytest.FixtureRequest) -> None:
    many_jobs(*there(store, request), jobs=60, restarts=1, kills=2, pause=0.02)


@pytest.mark.long
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("store", ["with_jobs", "on_postgres"], ids=["sqlite", "postgresql"])
def test_five_thousand_jobs_of_web_workers(store: str, request: pytest.FixtureRequest) -> None:
    many_jobs(*there(store, request), jobs=5000, restarts=10, kills=10, pause=0.03)
