"""`[jobs]`, and the plan that it is turned into."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from instar.config import Config
from instar.errors import ConfigError
from instar.jobs.plan import LOCAL, Destination, HandlerPlan, JobPlan, Rule, RunnerPlan
from instar.supervisor.jobs import job_plan, publish
from instar.supervisor.plan import Credentials, Plan
from instar.supervisor.statedir import StateDir

APP = "[app]\ntarget = 'a:b'\n"
POOL = APP + "[handlers.runners]\ncount = 2\n[jobs]\npool = 'runners'\n"

Read = Callable[[str], Config]


def test_without_a_pool_there_are_no_jobs(read: Read) -> None:
    with pytest.raises(ConfigError, match=r"there is no \[jobs\] pool"):
        job_plan(read(APP))


def test_a_pool_of_its_own_runs_the_manager_warm(read: Read) -> None:
    specs = Plan.of(read(POOL)).handler_specs()
    assert [(item.name, item.target, item.warm, item.argv) for item in specs] == [
        (f"main.runners.{index}", "instar.jobs.manager:main", True, ()) for index in (1, 2)
    ]


def test_defaults(read: Read, tmp_path: Path) -> None:
    plan = job_plan(read(POOL))
    assert plan.store == f"sqlite:///{tmp_path}/state/app/jobs.sqlite3"
    assert plan.folder == f"{tmp_path}/state/app/jobs"
    assert plan.destinations == (Destination(LOCAL, LOCAL),)
    assert plan.runners == (RunnerPlan(LOCAL, "local"),)
    assert plan.pool == "runners"


def test_everything_reaches_the_plan(read: Read) -> None:
    text = POOL + (
        "store_env = 'DSN'\nmax_grab = 4\nready_window = 9\nuser_limit = 3\n"
        "poll = '2s'\nkeep = '30d'\nfree_after = '1h'\n"
        "default_destination = 'big'\ndefault_handler = 'slow'\n"
        "[jobs.runners.slurm]\nworkers = 5\noptions = {partition = 'p'}\n"
        "[jobs.runners.mine]\nkind = 'thread'\n"
        "[jobs.destinations.big]\nrunner = 'slurm'\nparams = {mem = '4G'}\nenv = {A = 'b'}\ntags = 'huge'\nlimit = 7\n"
        "user_limit = 1\ntimeout = '1m'\n"
        "[jobs.rules.bwa]\ndestination = 'huge'\nhandler = 'slow'\nparams = {mem = '8G'}\n"
        "[jobs.handlers.'main.runners.1']\ntags = ['slow']\nrunners = 'slurm'\nmax_grab = 1\n"
    )
    plan = job_plan(read(text))
    assert plan.store == "env:DSN"
    assert plan.runners == (
        RunnerPlan(LOCAL, "local"), RunnerPlan("slurm", "slurm", {"partition": "p"}, 5), RunnerPlan("mine", "thread"),
    )  # fmt: skip
    assert plan.destinations[-1] == Destination("big", "slurm", {"mem": "4G"}, {"A": "b"}, ("huge",), 7, 1, 60.0)
    assert plan.handlers == (HandlerPlan("main.runners.1", ("slow",), ("slurm",), 1),)
    assert plan.rules == (Rule("bwa", "slow", "huge", {"mem": "8G"}),)
    assert (plan.max_grab, plan.ready_window, plan.user_limit) == (4, 9, 3)
    assert (plan.poll, plan.keep, plan.free_after) == (2.0, 30 * 86400.0, 3600.0)
    assert JobPlan.from_json(plan.to_json()) == plan


def test_a_document_of_another_release_is_understood() -> None:
    text = json.dumps({"store": "s", "folder": "f", "news": 1, "rules": [{"kind": "k", "more": 2}]})
    plan = JobPlan.from_json(text)
    assert plan.rules == (Rule("k"),)
    assert plan.destinations == (Destination(LOCAL, LOCAL),)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (APP + "[jobs]\npool = 'x'", '[jobs] pool names "x", and there is no table [handlers.x]'),
        (
            APP + "[handlers.x]\nscript = 'x.py'\n[jobs]\npool = 'x'",
            "[jobs] pool names [handlers.x], which runs a program; it must have a target, or nothing",
        ),
        (POOL + "store = 'sqlite:///a'\nstore_env = 'B'", "[jobs] has store and store_env; keep one of them"),
        (POOL + "default_destination = 'y'", '[jobs] default_destination names "y", which is no destination'),
        (
            POOL + "[jobs.destinations.y]\nrunner = 'z'",
            "[jobs.destinations.y] needs a runner: there is no [jobs.runners.z]",
        ),
        (POOL + "[jobs.rules.k]\ndestination = 'z'", '[jobs.rules.k] destination names "z", which is no destination'),
    ],
)
def test_what_does_not_fit_is_told(errors: Callable[[str], list[str]], text: str, sentence: str) -> None:
    assert errors(text) == [f"cannot use instar.toml: {sentence}"]


def test_a_wrong_store_is_told(errors: Callable[[str], list[str]]) -> None:
    (line,) = errors(POOL + "store = 'jobs.db'")
    assert line.endswith('[jobs] store must be "sqlite:///PATH" or "postgresql://USER@HOST/DATABASE"')


def test_the_document_is_private(read: Read, tmp_path: Path) -> None:
    state = StateDir(tmp_path / "state")
    state.create(None, None)
    config = read(POOL)
    variables = publish(config, state, Credentials(), 3)
    path = Path(variables["INSTAR_JOBS"])
    assert path.stat().st_mode & 0o777 == 0o600
    plan = JobPlan.from_json(path.read_text())
    assert plan == job_plan(config)
    assert Path(plan.folder).stat().st_mode & 0o777 == 0o700
    assert publish(config, state, Credentials(), 3) == variables


def test_no_document_without_jobs(read: Read, tmp_path: Path) -> None:
    assert publish(read(APP), StateDir(tmp_path / "state"), Credentials(), 1) == {}


def test_durable_folders(read: Read, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is to outlive a reboot isn't in /run."""
    config = read(POOL)
    monkeypatch.delenv("INSTAR_STATE_DIR")
    config = config.model_copy()
    config._state_dir = None
    monkeypatch.setenv("STATE_DIRECTORY", "/var/lib/site:/var/lib/other")
    assert config.durable_dir() == Path("/var/lib/site/main")
    monkeypatch.delenv("STATE_DIRECTORY")
    monkeypatch.setattr("os.geteuid", lambda: 0)
    assert config.durable_dir() == Path("/var/lib/instar/main")
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    monkeypatch.setenv("HOME", "/home/me")
    assert config.durable_dir() == Path("/home/me/.local/state/instar/main/app")
