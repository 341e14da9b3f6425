"""Finds the store of an application's jobs, and the folders of their attempts."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from instar.errors import ConfigError, InstarError

if TYPE_CHECKING:
    from instar.config import Config
    from instar.jobs.model import Submission
    from instar.jobs.plan import JobPlan
    from instar.jobs.store import JobStore

StoreUrl = Annotated[
    str | None,
    typer.Option(
        "--store",
        metavar="URL",
        help="Job store, where there is no configuration file: sqlite:///PATH or postgresql://…",
        show_default="as [jobs] says",
        rich_help_panel="Which one",
    ),
]


@dataclasses.dataclass(frozen=True)
class Site:
    """Where the jobs of one application are."""

    store: JobStore
    plan: JobPlan
    #: Handlers that can run jobs, and their tags; empty: not known.
    handlers: frozenset[str] = frozenset()
    tags: frozenset[str] = frozenset()

    def routed(self, given: Submission) -> Submission:
        """The submission with what the plan adds. Raises SubmissionError."""
        from instar.jobs.checks import checked
        from instar.jobs.routing import Router

        router, given = Router(self.plan), checked(given)
        router.check(given)
        return router.route(given)

    def doubts(self, given: Submission) -> Iterator[str]:
        """Why nobody that the configuration knows would take a job, in sentences."""
        if not self.handlers:
            return
        if given.handler and given.handler not in self.handlers:
            yield f"no handler {given.handler} runs jobs here"
        if given.pool and given.pool != self.plan.pool:
            yield f"the pool {given.pool} doesn't run jobs here, {self.plan.pool} does"
        if given.tag and given.tag not in self.handlers | self.tags:
            yield f"no handler has the tag {given.tag} here"

    def folders(self) -> list[Path]:
        """Where attempts can have their folders: the common one, and those of runners that have one of their own."""
        own = [Path(str(item.options["folder"])) for item in self.plan.runners if item.options.get("folder")]
        return [Path(self.plan.folder), *own]


def open_site(config: Path | None, name: str | None, state_dir: Path | None, store: str | None) -> Site:
    """The jobs that a command is about; from here on the process has the rights of the application's user only.

    Raises InstarError.
    """
    from instar.jobs.plan import JobPlan
    from instar.jobs.store import JobStore

    if store is not None:
        return Site(JobStore(store), JobPlan(store=store, folder=""))
    loaded = _load(config, name, state_dir)
    from instar.supervisor.jobs import job_plan

    plan = job_plan(loaded)
    _become(loaded)
    pool = loaded.handlers[plan.pool]
    names = frozenset(loaded.handler_names(plan.pool))
    own = {tag for item in plan.handlers if item.name in names for tag in item.tags}
    return Site(JobStore(plan.store), plan, names, frozenset(own.union(pool.tags)))


def _load(config: Path | None, name: str | None, state_dir: Path | None) -> Config:
    from instar.config import environment, load

    loaded = load(config, overrides={"app.name": name, "state_dir": str(state_dir) if state_dir else None})
    if variable := loaded.jobs.store_env:
        # As the application has it: env and env_file count.
        value = environment(loaded).get(variable) or os.environ.get(variable)
        if not value:
            raise ConfigError(
                f"cannot open the job store: the environment variable {variable}, which [jobs] store_env names, is not "
                "set; set it, or write it into [app] env_file"
            )
        os.environ[variable] = value
    return loaded


def _become(config: Config) -> None:
    """Files that root makes in the store's folder couldn't be written by the application."""
    from instar.supervisor.plan import Credentials

    if os.geteuid() != 0:
        return
    who = Credentials.of(config)
    if who.umask is not None:
        os.umask(who.umask)
    try:
        if who.groups is not None:
            os.setgroups(who.groups)
        if who.gid is not None:
            os.setgid(who.gid)
        if who.uid is not None:
            os.setuid(who.uid)
    except OSError as error:
        raise InstarError(f"cannot act as {config.app.user or config.app.group}: {error.strerror}") from error
