"""`instar jobs submit`."""

from __future__ import annotations

import datetime
import json as json_
import re
import sys
import time
from typing import Annotated, Any

import typer

from instar.cli._format import print_json
from instar.cli._options import ConfigFile, Json, Name, StateDir
from instar.cli.jobs._app import command
from instar.cli.jobs._site import StoreUrl, open_site
from instar.config.units import parse_duration
from instar.errors import ConfigError

_WHO = "Who runs it"
_HOW = "How"
_AGAIN = "When it fails"


@command("submit")
def submit(
    words: Annotated[
        list[str] | None,
        typer.Argument(metavar="-- PROGRAM [ARGUMENT]...", help="The command; no shell runs it.", show_default=False),
    ] = None,
    call: Annotated[
        str | None,
        typer.Option(metavar="MODULE:FUNCTION", help="Call this instead of running a command.", show_default=False),
    ] = None,
    args: Annotated[
        str, typer.Option(metavar="JSON", help="Arguments of --call: a list, or an object of named ones.")
    ] = "[]",
    handler: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Only this handler; '' and _null_ mean anyone.",
            rich_help_panel=_WHO,
            show_default=False,
        ),
    ] = None,
    pool: Annotated[
        str | None,
        typer.Option(metavar="POOL", help="Only handlers of this pool.", rich_help_panel=_WHO, show_default=False),
    ] = None,
    tag: Annotated[
        str | None,
        typer.Option(metavar="TAG", help="Only handlers with this tag.", rich_help_panel=_WHO, show_default=False),
    ] = None,
    destination: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Where it runs.", rich_help_panel=_WHO, show_default="as the rules say"),
    ] = None,
    param: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=VALUE", help="Parameter for the runner; repeat.", rich_help_panel=_WHO),
    ] = None,
    kind: Annotated[
        str,
        typer.Option(metavar="KIND", help="What sort of work it is.", rich_help_panel=_HOW, show_default="the program"),
    ] = "",
    user: Annotated[
        str,
        typer.Option(metavar="NAME", help="On whose behalf, for fairness.", rich_help_panel=_HOW, show_default=False),
    ] = "",
    priority: Annotated[int, typer.Option(help="Larger ones go first.", rich_help_panel=_HOW)] = 0,
    at: Annotated[
        str | None,
        typer.Option(
            metavar="TIME",
            help="Not before: a time (2026-11-24T18:00), or a pause (+10m).",
            rich_help_panel=_HOW,
            show_default="now",
        ),
    ] = None,
    env: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=VALUE", help="Environment variable; repeat.", rich_help_panel=_HOW),
    ] = None,
    cwd: Annotated[
        str,
        typer.Option(
            metavar="FOLDER", help="Where it runs.", rich_help_panel=_HOW, show_default="a fresh folder of its own"
        ),
    ] = "",
    timeout: Annotated[
        str | None,
        typer.Option(metavar="TIME", help="End it after so long.", rich_help_panel=_HOW, show_default="no limit"),
    ] = None,
    kill_timeout: Annotated[
        str, typer.Option(metavar="TIME", help="From SIGTERM to SIGKILL.", rich_help_panel=_HOW)
    ] = "10s",
    dedupe_key: Annotated[
        str | None,
        typer.Option(
            metavar="KEY",
            help="Give the number of the job with this key, ended or not, instead of a new one.",
            rich_help_panel=_HOW,
            show_default=False,
        ),
    ] = None,
    max_attempts: Annotated[int, typer.Option(min=1, help="How often it is tried.", rich_help_panel=_AGAIN)] = 1,
    backoff: Annotated[
        str, typer.Option(metavar="TIME", help="Pause before the second attempt; it doubles.", rich_help_panel=_AGAIN)
    ] = "5s",
    on_lost: Annotated[
        str, typer.Option(metavar="fail|retry|hold", help="If nobody can tell how it ended.", rich_help_panel=_AGAIN)
    ] = "fail",
    json: Json = False,
    store: StoreUrl = None,
    config: ConfigFile = None,
    name: Name = None,
    state_dir: StateDir = None,
) -> None:
    """Store a job and print its number. It is on the disk when this ends.

    \b
    Examples:
      instar jobs submit -- convert big.tif small.png
      instar jobs submit --pool reports --priority 5 --timeout 1h -- python make_report.py 2026-10
      instar jobs submit --call mysite.reports:monthly --args '{"month": "2026-10"}'
      instar jobs submit --json -- true | jq .id
    """  # fmt: skip
    from instar.jobs.model import OnLost, Submission

    positional, named = _arguments(args, call)
    submission = Submission(
        command=tuple(words or ()),
        target=call or "",
        args=positional,
        kwargs=named,
        kind=kind,
        handler=handler,
        pool=pool,
        tag=tag,
        destination=destination,
        params=_pairs(param, "--param"),
        user=user,
        priority=priority,
        run_at=_time(at) if at else None,
        max_attempts=max_attempts,
        backoff=_duration(backoff, "--backoff"),
        on_lost=_choice(on_lost, [str(item) for item in OnLost]),
        dedupe_key=dedupe_key,
        env=_pairs(env, "--env"),
        cwd=cwd,
        timeout=_duration(timeout, "--timeout") if timeout else 0.0,
        kill_timeout=_duration(kill_timeout, "--kill-timeout"),
    )
    site = open_site(config, name, state_dir, store)
    if store is None:
        submission = site.routed(submission)
    number = site.store.submit(submission)
    for doubt in site.doubts(submission):
        print(f"instar: {doubt}; it waits until somebody does", file=sys.stderr)
    if json:
        print_json({"id": number})
    else:
        print(number)


def _choice(text: str, known: list[str]) -> Any:
    from instar.jobs.model import OnLost

    if text not in known:
        raise ConfigError(f"cannot submit the job: --on-lost is one of {', '.join(known)}, not {text!r}")
    return OnLost(text)


def _arguments(text: str, call: str | None) -> tuple[tuple[Any, ...], dict[str, Any]]:
    try:
        value = json_.loads(text)
    except ValueError as error:
        raise ConfigError(f"cannot submit the job: --args is not JSON: {error}") from None
    if value and not call:
        raise ConfigError("cannot submit the job: --args goes with --call; arguments of a command follow it")
    if isinstance(value, list):
        return tuple(value), {}
    if isinstance(value, dict):
        return (), value
    raise ConfigError("cannot submit the job: --args must be a JSON list or object")


def _pairs(items: list[str] | None, option: str) -> dict[str, str]:
    found = {}
    for item in items or ():
        key, equals, value = item.partition("=")
        if not equals or not key:
            raise ConfigError(f"cannot submit the job: {option} must be NAME=VALUE, not {item!r}")
        found[key] = value
    return found


def _duration(text: str, option: str) -> float:
    try:
        return parse_duration(float(text) if re.fullmatch(r"[0-9.]+", text) else text)
    except ValueError as error:
        raise ConfigError(f"cannot submit the job: {option} {error}") from None


def _time(text: str) -> float:
    if text.startswith("+"):
        return time.time() + _duration(text[1:], "--at")
    try:
        return datetime.datetime.fromisoformat(text).timestamp()
    except ValueError:
        raise ConfigError(
            f"cannot submit the job: --at is a time such as 2026-11-24T18:00, or a pause such as +10m, not {text!r}"
        ) from None
