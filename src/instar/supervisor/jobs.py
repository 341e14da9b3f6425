"""`[jobs]` for the processes of the application: one document that says how jobs are run."""

from __future__ import annotations

import contextlib
import dataclasses
import os
from pathlib import Path

from instar.config import Config
from instar.config.jobs import Jobs
from instar.errors import ConfigError, InstarError
from instar.jobs.plan import LOCAL, Destination, HandlerPlan, JobPlan, Rule, RunnerPlan
from instar.supervisor.plan import Credentials
from instar.supervisor.statedir import StateDir
from instar.system import guarded
from instar.system.trust import make_folder

#: Environment variable that names the document.
VARIABLE = "INSTAR_JOBS"


def job_plan(config: Config) -> JobPlan:
    """How jobs are run. Raises ConfigError when `[jobs]` is not there, or its configuration file can't be used."""
    jobs = config.jobs
    if not jobs.pool:
        raise ConfigError("cannot run jobs: there is no [jobs] pool; name the pool of handlers that is to run them")
    base = config.durable_dir()
    return JobPlan(
        store=_store(jobs, base),
        folder=str(jobs.folder or base / "jobs"),
        launcher=str(config.state_dir() / "app" / "launcher.sock"),
        runners=_runners(jobs),
        destinations=_destinations(jobs),
        default_destination=jobs.default_destination,
        handlers=tuple(
            HandlerPlan(name, item.tags, item.runners, item.max_grab) for name, item in jobs.handlers.items()
        ),
        default_handler=jobs.default_handler,
        pool=jobs.pool,
        rules=tuple(Rule(kind, item.handler, item.destination, dict(item.params)) for kind, item in jobs.rules.items()),
        max_grab=jobs.max_grab,
        ready_window=jobs.ready_window,
        user_limit=jobs.user_limit,
        poll=jobs.poll,
        keep=jobs.keep,
        free_after=jobs.free_after,
    )


def _store(jobs: Jobs, base: Path) -> str:
    if jobs.store_env:
        # Looked up where it is used: a password doesn't go into a file.
        return f"env:{jobs.store_env}"
    return jobs.store or f"sqlite:///{base / 'jobs.sqlite3'}"


def _runners(jobs: Jobs) -> tuple[RunnerPlan, ...]:
    found = {LOCAL: RunnerPlan(LOCAL, "local")}
    for name, item in jobs.runners.items():
        found[name] = RunnerPlan(name, item.kind or name, dict(item.options), item.workers, item.optional)
    return tuple(found.values())


def _destinations(jobs: Jobs) -> tuple[Destination, ...]:
    found = {name: Destination(name, name) for name in (LOCAL, *jobs.runners)}
    for name, item in jobs.destinations.items():
        found[name] = Destination(
            name,
            item.runner or name,
            dict(item.params),
            dict(item.env),
            item.tags,
            item.limit,
            item.user_limit,
            item.timeout,
        )
    return tuple(found.values())


def document(state: StateDir, generation: int) -> Path:
    """Where the document of a generation is."""
    return state.app / f"jobs-{generation}.json"


def publish(config: Config, state: StateDir, who: Credentials, generation: int) -> dict[str, str]:
    """Write the document for a generation, and make the folders that it names; returns the environment that leads to
    it. Empty without `[jobs]`. Raises InstarError."""
    if not config.jobs.pool:
        return {}
    # Supervisors of one name, side by side, have a launcher each.
    plan = dataclasses.replace(job_plan(config), launcher=str(state.launcher))
    path = document(state, generation)
    try:
        if plan.store.startswith("sqlite:///"):
            make_folder(Path(plan.store.removeprefix("sqlite:///")).parent, who.uid, who.gid)
        make_folder(Path(plan.folder), who.uid, who.gid)
        with contextlib.suppress(FileNotFoundError):
            path.unlink()
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(fd, "w") as file:
            file.write(plan.to_json())
            guarded.give(fd, who.uid, who.gid)
    except OSError as error:
        raise InstarError(
            f"cannot prepare jobs in {error.filename or path}: {(error.strerror or str(error)).lower()}; "
            "check [jobs] folder and store"
        ) from error
    return {VARIABLE: str(path)}
