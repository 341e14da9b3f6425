"""Handlers are killed and replaced all the time while jobs come in: each job is done once."""

from __future__ import annotations

import os
import random
import signal
import time
from collections import Counter
from pathlib import Path

import pytest
from job_tools import command

from instar.jobs.crew import Crew
from instar.jobs.manager import Manager
from instar.jobs.model import Submission
from instar.jobs.plan import Destination, JobPlan, RunnerPlan
from instar.jobs.store import JobStore
from instar.testing import fake_handler

NAMES = ["main.jobs.1", "main.jobs.2", "main.jobs.3"]
HANDLERS = [None, "", "_null_", *NAMES]


class Handlers:
    """Processes that hold the names, as a supervisor keeps them."""

    def __init__(self, plan: JobPlan, state: Path) -> None:
        self.plan = plan
        self.state = state
        self.pids = {name: self._start(name) for name in NAMES}

    def _start(self, name: str) -> int:
        pid = os.fork()
        if pid:
            return pid
        code = 1
        try:
            with fake_handler(name, "jobs", state_dir=self.state) as fake:
                fake.activate()
                signal.signal(signal.SIGTERM, lambda *_: os.write(fake._release, b"x"))
                Manager(self.plan, fake.handler, JobStore(self.plan.store), crew=Crew(self.plan, name)).run()
                code = 0
        finally:
            os._exit(code)

    def replace(self, name: str, sig: int) -> None:
        os.kill(self.pids[name], sig)
        _, status = os.waitpid(self.pids[name], 0)
        assert os.waitstatus_to_exitcode(status) in (-signal.SIGKILL, 0)
        self.pids[name] = self._start(name)

    def end(self) -> None:
        for pid in self.pids.values():
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)


def chaos(url: str, tmp_path: Path, jobs: int, replacements: int) -> None:
    runs = tmp_path / "runs"
    plan = JobPlan(
        store=url,
        folder=str(tmp_path / "jobs"),
        runners=(RunnerPlan("local", "local", workers=4), RunnerPlan("thread", "thread", workers=4)),
        destinations=(Destination("local", "local"), Destination("thread", "thread")),
        poll=0.2,
    )
    store = JobStore.open(url)
    chance = random.Random(jobs)
    handlers = Handlers(plan, tmp_path / "state")
    try:
        wanted: dict[int, int] = {}
        left = replacements
        while len(wanted) < jobs or left:
            if len(wanted) < jobs:
                code = chance.randrange(3)
                script = f"echo $INSTAR_JOB_ID >>{runs}; exit {code}"
                job = store.submit(
                    command("sh", "-c", script, handler=chance.choice(HANDLERS), user=chance.choice("abc"))
                )
                wanted[job] = code
            if left and len(wanted) >= (replacements - left) * jobs / replacements:
                handlers.replace(chance.choice(NAMES), chance.choice([signal.SIGKILL, signal.SIGTERM]))
                left -= 1
            time.sleep(0.002)
        calls = store.submit_many([Submission(target="job_calls:add", args=(1, n)) for n in range(20)])
        for job, code in wanted.items():
            now = store.wait(job, 100)
            assert now.exit_code == code, (now, store.attempts(job))
        assert [store.wait(job, 60).result for job in calls] == list(range(1, 21))
    finally:
        handlers.end()
    counts = Counter(map(int, runs.read_text().split()))
    assert counts == Counter(wanted.keys())
    keys = [attempt.dispatch_key for job in wanted for attempt in store.attempts(job)]
    assert len(keys) == len(set(keys))


def test_chaos(url: str, tmp_path: Path) -> None:
    chaos(url, tmp_path, 60, 8)


@pytest.mark.long
def test_more_chaos(url: str, tmp_path: Path) -> None:
    chaos(url, tmp_path, 1500, 60)
