"""`instar jobs list`, `show`, `logs`, `stats`."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, BinaryIO

import typer

from instar.cli._format import console, escaped, print_json, seconds, table
from instar.cli._options import ConfigFile, Json, Name, StateDir
from instar.cli.jobs._app import Id, command
from instar.cli.jobs._show import attempt_object, event_object, job_details, job_object, job_table
from instar.cli.jobs._site import Site, StoreUrl, open_site
from instar.errors import ConfigError, InstarError

if TYPE_CHECKING:
    from instar.jobs.model import JobState

#: Seconds between two looks of `logs --follow`.
_LOOK = 0.2


@command("list")
def list_(
    state: Annotated[
        list[str] | None,
        typer.Option("-s", "--state", help="Only these states; `live` and `ended` are groups. Repeat."),
    ] = None,
    handler: Annotated[str | None, typer.Option(help="Only those of this handler.", show_default=False)] = None,
    kind: Annotated[str | None, typer.Option(help="Only this sort of work.", show_default=False)] = None,
    user: Annotated[str | None, typer.Option(help="Only those of this user.", show_default=False)] = None,
    limit: Annotated[int, typer.Option("-n", "--limit", min=1, help="Show at most this many, the newest first.")] = 50,
    before: Annotated[
        int | None, typer.Option(help="Only numbers below this: the next page.", show_default=False)
    ] = None,
    json: Json = False,
    store: StoreUrl = None,
    config: ConfigFile = None,
    name: Name = None,
    state_dir: StateDir = None,
) -> None:
    """Show jobs, the newest first.

    \b
    Examples:
      instar jobs list
      instar jobs list --state live
      instar jobs list --state error --state lost --json | jq -r '.jobs[].id'
    """
    site = open_site(config, name, state_dir, store)
    found = site.store.find(states=_states(state), handler=handler, kind=kind, user=user, before=before, limit=limit)
    if json:
        print_json({"jobs": [job_object(job) for job in found]})
    elif found:
        console().print(job_table(found))
    else:
        console().print("no such jobs")


def _states(given: list[str] | None) -> list[JobState]:
    from instar.jobs.model import ENDED, LIVE, JobState

    groups = {"live": sorted(LIVE), "ended": sorted(ENDED)}
    found: list[JobState] = []
    for text in given or ():
        if text not in groups and text not in set(JobState):
            raise ConfigError(f"cannot list jobs in the state {text!r}: known are {', '.join([*JobState, *groups])}")
        found += groups.get(text) or [JobState(text)]
    return found


@command("show")
def show(
    job: Id,
    json: Json = False,
    store: StoreUrl = None,
    config: ConfigFile = None,
    name: Name = None,
    state_dir: StateDir = None,
) -> None:
    """Show everything about one job: its attempts, and what happened to it.

    \b
    Examples:
      instar jobs show 42
      instar jobs show 42 --json | jq .exit_code
    """
    site = open_site(config, name, state_dir, store)
    found, attempts = site.store.get(job), site.store.attempts(job)
    events = site.store.events(job)
    if json:
        history = [event_object(event) for event in events]
        print_json({**job_object(found), "attempts": [attempt_object(item) for item in attempts], "events": history})
    else:
        console().print(job_details(found, attempts, events))


@command("logs")
def logs(
    job: Id,
    follow: Annotated[bool, typer.Option("-f", "--follow", help="Go on until the job has ended.")] = False,
    errors: Annotated[bool, typer.Option("--errors", help="Only what it wrote to standard error.")] = False,
    attempt: Annotated[int | None, typer.Option(min=1, help="Of this attempt.", show_default="the latest")] = None,
    store: StoreUrl = None,
    config: ConfigFile = None,
    name: Name = None,
    state_dir: StateDir = None,
) -> None:
    """Print what a job has written: first its standard output, then its standard error.

    With --follow only one of the two, standard output unless --errors is given.

    \b
    Examples:
      instar jobs logs 42
      instar jobs logs 42 -f
    """
    site = open_site(config, name, state_dir, store)
    folder = _folder(site, job, attempt)
    if follow:
        for piece in _growing(site, job, folder / ("err" if errors else "out")):
            _print(piece)
        return
    for file in ("err",) if errors else ("out", "err"):
        with _opened(folder / file) as stream:
            while piece := stream.read(1 << 16):
                _print(piece, to_errors=file == "err" and not errors)


def _print(piece: bytes, *, to_errors: bool = False) -> None:
    """As it is: it may be in any encoding."""
    stream = sys.stderr if to_errors else sys.stdout
    stream.buffer.write(piece)
    stream.flush()


def _folder(site: Site, job: int, number: int | None) -> Path:
    attempts = site.store.attempts(job)
    chosen = [item for item in attempts if number in (None, item.number)]
    if not chosen:
        wanted = f"attempt {number}" if number else "attempt yet"
        raise InstarError(f"cannot show the output of the job {job}: there was no {wanted}; see `instar jobs show`")
    key = chosen[-1].dispatch_key
    for folder in site.folders():
        if (folder / key).is_dir():
            return folder / key
    raise InstarError(
        f"cannot show the output of the job {job}: there is none at {site.folders()[0] / key}; it was deleted, or the "
        "job ran in the handler itself (see `instar logs`)"
    )


def _opened(path: Path) -> BinaryIO:
    try:
        return path.open("rb")
    except FileNotFoundError:
        return Path(os.devnull).open("rb")
    except OSError as error:
        raise InstarError(f"cannot read {path}: {error.strerror}") from error


def _growing(site: Site, job: int, path: Path) -> Iterator[bytes]:
    """Pieces of a file as it grows, until the job has ended and all is read."""
    while True:
        # Looked at before the last read: what was written until then is read.
        ended = site.store.get(job).state.ended
        if path.exists():
            break
        if ended:
            return
        time.sleep(_LOOK)
    with _opened(path) as stream:
        while True:
            ended = site.store.get(job).state.ended
            while piece := stream.read(1 << 16):
                yield piece
            if ended:
                return
            time.sleep(_LOOK)


@command("stats")
def stats(
    json: Json = False,
    store: StoreUrl = None,
    config: ConfigFile = None,
    name: Name = None,
    state_dir: StateDir = None,
) -> None:
    """Show how many jobs there are in each state, who has them, and for whom others wait.

    \b
    Examples:
      instar jobs stats
      instar jobs stats --json | jq .oldest_wait
    """
    site = open_site(config, name, state_dir, store)
    found, seen = site.store.stats(), site.store.handlers()
    if json:
        answer = {
            "states": found.states,
            "waiting": found.waiting,
            "live": found.live,
            "destinations": found.destinations,
            "oldest_wait": found.oldest_wait,
            "handlers": {handler: {"seen": ago} for handler, ago in seen.items()},
        }
        print_json(answer)
        return
    screen = console()
    states = table("state", "jobs", right=("jobs",))
    for text, number in found.states.items():
        states.add_row(text, str(number))
    screen.print(states if found.states else "no jobs")
    _show_handlers(found.waiting, found.live, seen)
    if found.oldest_wait is not None:
        screen.print(f"\nthe oldest job that may run has waited {seconds(found.oldest_wait)}")


def _show_handlers(waiting: dict[str, int], live: dict[str, int], seen: dict[str, float]) -> None:
    names = sorted({*waiting, *live, *seen} - {""})
    rows = table("handler", "has", "wait for it", "seen", right=("has", "wait for it", "seen"))
    for handler in names:
        ago = f"{seconds(seen[handler])} ago" if handler in seen else "never"
        rows.add_row(escaped(handler), str(live.get(handler, 0)), str(waiting.get(handler, 0)), ago)
    if waiting.get(""):
        rows.add_row("anyone", "", str(waiting[""]), "")
    if names or waiting.get(""):
        console().print()
        console().print(rows)
