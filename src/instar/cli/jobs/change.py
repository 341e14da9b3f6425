"""`instar jobs cancel`, `retry`, `reassign`, `purge`."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Annotated

import typer

from instar.cli._format import console, print_json
from instar.cli._options import ConfigFile, Json, Name, StateDir
from instar.cli.jobs._app import command
from instar.cli.jobs._show import job_object, state_text
from instar.cli.jobs._site import Site, StoreUrl, open_site
from instar.config.units import parse_duration
from instar.errors import ConfigError

Ids = Annotated[list[int], typer.Argument(metavar="JOB...", help="Numbers of jobs.", show_default=False)]


@command("cancel")
def cancel(
    jobs: Ids,
    json: Json = False,
    store: StoreUrl = None,
    config: ConfigFile = None,
    name: Name = None,
    state_dir: StateDir = None,
) -> None:
    """Make jobs end: one that waits ends at once, one that runs is asked to (SIGTERM, later SIGKILL).

    Does not wait for it; `instar jobs wait` does. A job that has ended stays as it is.

    \b
    Examples:
      instar jobs cancel 42
      instar jobs cancel 42 43 44
    """
    site = open_site(config, name, state_dir, store)
    _tell([site.store.cancel(job) for job in jobs], json)


@command("retry")
def retry(
    jobs: Ids,
    json: Json = False,
    store: StoreUrl = None,
    config: ConfigFile = None,
    name: Name = None,
    state_dir: StateDir = None,
) -> None:
    """Let jobs that did not end well, or are held, be tried once more, now.

    \b
    Examples:
      instar jobs retry 42
      instar jobs retry $(instar jobs list --state lost --json | jq '.jobs[].id')
    """
    site = open_site(config, name, state_dir, store)
    _tell([site.store.retry(job) for job in jobs], json)


def _tell(found: list, json: bool) -> None:  # type: ignore[type-arg]
    if json:
        print_json({"jobs": [job_object(job) for job in found]})
        return
    for job in found:
        console().print(f"job {job.id}: {state_text(job)}")


@command("reassign")
def reassign(
    handler: Annotated[str, typer.Argument(metavar="HANDLER", help="Whose jobs.", show_default=False)],
    to: Annotated[str | None, typer.Option(metavar="HANDLER", help="Who gets them.", show_default="anyone")] = None,
    live: Annotated[
        bool,
        typer.Option(
            "--live",
            help="Also those that it has in hand. Only for a handler that is gone for good; needs --to.",
        ),
    ] = False,
    json: Json = False,
    store: StoreUrl = None,
    config: ConfigFile = None,
    name: Name = None,
    state_dir: StateDir = None,
) -> None:
    """Give the jobs that wait for one handler to another, or to anyone.

    For a name that was taken out of the configuration. With --live the name is also taken from whoever still has it.

    \b
    Examples:
      instar jobs reassign main.job-handlers.3
      instar jobs reassign main.job-handlers.3 --to main.job-handlers.1 --live
    """
    found = open_site(config, name, state_dir, store).store.reassign(handler, to, live=live)
    if json:
        print_json({"waiting": found.waiting, "live": found.live})
    else:
        whom = to or "anyone"
        print(f"{found.waiting} waiting and {found.live} running jobs of {handler} given to {whom}")


@command("purge")
def purge(
    older: Annotated[str, typer.Option(metavar="TIME", help="Only jobs that ended so long ago.")] = "30d",
    state: Annotated[
        list[str] | None,
        typer.Option("-s", "--state", help="Only these states; repeat.", show_default="every end"),
    ] = None,
    json: Json = False,
    store: StoreUrl = None,
    config: ConfigFile = None,
    name: Name = None,
    state_dir: StateDir = None,
) -> None:
    """Delete ended jobs and their output.

    \b
    Examples:
      instar jobs purge
      instar jobs purge --older 1d --state ok
    """
    from instar.jobs.model import ENDED, JobState

    unknown = [text for text in state or () if text not in set(JobState)]
    if unknown:
        raise ConfigError(f"cannot purge jobs in the state {unknown[0]!r}: known are {', '.join(sorted(ENDED))}")
    try:
        limit = parse_duration(float(older) if re.fullmatch(r"[0-9.]+", older) else older)
    except ValueError as error:
        raise ConfigError(f"cannot purge jobs: --older {error}") from None
    site = open_site(config, name, state_dir, store)
    keys = site.store.purge(older=limit, states=[JobState(text) for text in state] if state else ENDED)
    _delete_folders(site, keys)
    number = len({key.rpartition("-a")[0] for key in keys})
    if json:
        print_json({"jobs": number})
    else:
        print(f"{number} {'job' if number == 1 else 'jobs'} deleted")


def _delete_folders(site: Site, keys: list[str]) -> None:
    for key in keys:
        for folder in site.folders():
            if folder != Path():
                shutil.rmtree(folder / key, ignore_errors=True)
