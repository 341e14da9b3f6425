"""`instar check`."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from instar.cli._check_plan import describe
from instar.cli._findings import MARKS, Finding, error, warning
from instar.cli._format import console, escaped, print_json
from instar.cli._options import ConfigFile, Json, Name, StateDir
from instar.errors import ConfigError, ExitCode

if TYPE_CHECKING:
    from instar.config import Config


def check(
    target: Annotated[
        str | None,
        typer.Argument(
            metavar="MODULE:ATTR|FILE",
            help="Application, where there is no file; or a configuration file, of instar or of uWSGI.",
            show_default=False,
        ),
    ] = None,
    load: Annotated[
        bool, typer.Option("--load", help="Also import the application, in a process of its own interpreter.")
    ] = False,
    timeout: Annotated[
        float | None,
        typer.Option(min=0.1, metavar="SECONDS", help="Time for --load.", show_default="restart.boot_timeout"),
    ] = None,
    schema: Annotated[bool, typer.Option("--schema", help="Print the JSON Schema of instar.toml and exit.")] = False,
    json: Json = False,
    config: ConfigFile = None,
    name: Name = None,
    state_dir: StateDir = None,
) -> None:
    """Check the configuration and all that it names, without starting anything.

    Shows what `instar run` would do. Files, users, programs, addresses and the engine are tried; secrets are
    never shown. Ends with status 2 when something would not work.

    With a file of uWSGI (.yml, .ini, .xml, .json, also FILE:SECTION) it explains what each line does under
    `instar uwsgi`, and warns about traps.

    \b
    Examples:
      instar check
      instar check --load
      instar check -c /etc/mysite/instar.toml --json
      instar check --schema > instar.schema.json
      instar check /srv/galaxy/vassals/vassal-zergling.yml
      instar check /srv/galaxy/vassals/reports.toml
    """
    if schema:
        _print_schema()
        return
    if target and config is None and target.endswith(".toml") and Path(target).is_file():
        config, target = Path(target), None
    if target and _is_file_of_uwsgi(target):
        from instar.cli._check_uwsgi import check_uwsgi

        check_uwsgi(target, load=load, timeout=timeout, json=json)
        return
    from instar import config as configuration

    try:
        loaded = configuration.load(config, target=target, overrides={"app.name": name, "state_dir": state_dir})
    except ConfigError as problem:
        if not json:
            raise
        _print_answer(None, [error("configuration", line) for line in str(problem).splitlines()])
        raise typer.Exit(ExitCode.USAGE) from None
    findings = list(examine(loaded, load=load, timeout=timeout or loaded.restart.boot_timeout))
    if json:
        _print_answer(loaded, findings)
    else:
        _show(loaded, findings, load=load)
    if any(finding.level == "error" for finding in findings):
        raise typer.Exit(ExitCode.USAGE)


def _is_file_of_uwsgi(target: str) -> bool:
    from instar.config.formats.uwsgi import is_uwsgi_file

    # `package.ini:app` could be a module as well, if nobody named a file.
    return is_uwsgi_file(target)


def examine(config: Config, *, load: bool, timeout: float) -> Iterator[Finding]:
    """Everything that can be found out without starting."""
    from instar.cli._check_app import check_app
    from instar.cli._check_files import check_files, check_programs
    from instar.cli._check_ports import check_ports
    from instar.supervisor.plan import Plan

    yield from (warning("configuration", text) for text in config.warnings())
    files = list(check_files(config))
    yield from files
    yield from check_ports(config)
    # Each of these is an error already; a process could not even be started with them.
    if any(
        found.level == "error" and found.subject in ("[app] chdir", "[app] env_file", "[app] user") for found in files
    ):
        return
    try:
        plan = Plan.of(config)
    except ConfigError as problem:
        yield error("[app] python", str(problem))
        return
    path = plan.environment().get("PATH", os.defpath)
    yield from check_programs(plan.config, plan.python, path)
    yield from check_app(plan, load=load, timeout=timeout)


def _print_schema() -> None:
    from json import dumps

    from instar.config import json_schema

    typer.echo(dumps(json_schema(), indent=2))


def _print_answer(config: Config | None, findings: list[Finding]) -> None:
    source: Path | None = config.source if config else None
    answer: dict[str, Any] = {
        "ok": not any(finding.level == "error" for finding in findings),
        "config": str(source) if source else None,
        "plan": [{"what": label, "text": text} for label, text in describe(config)] if config else [],
        "findings": [finding.to_dict() for finding in findings],
    }
    print_json(answer)


def _show(config: Config, findings: list[Finding], *, load: bool) -> None:
    from rich.table import Table

    screen = console()
    screen.print(f"[bold]{escaped(config.source or 'no file, defaults')}[/]")
    plan = Table(box=None, padding=(0, 2, 0, 0), show_header=False)
    for label, text in describe(config):
        plan.add_row(escaped(label), escaped(text))
    checks = Table(box=None, padding=(0, 2, 0, 0), show_header=False)
    for finding in findings:
        detail = "".join(f"\n  {escaped(line)}" for line in finding.detail)
        checks.add_row(MARKS[finding.level], escaped(finding.subject), escaped(finding.text) + detail)
    screen.print(plan)
    screen.print()
    screen.print(checks)
    screen.print()
    screen.print(_verdict(findings, load=load))


def _verdict(findings: list[Finding], *, load: bool) -> str:
    errors = sum(finding.level == "error" for finding in findings)
    warnings = sum(finding.level == "warning" for finding in findings)
    if errors:
        return f"[red]{errors} error{'s' if errors > 1 else ''}[/]: `instar run` would not work"
    note = f", {warnings} warning{'s' if warnings > 1 else ''}" if warnings else ""
    hint = "" if load else "; --load also imports the application"
    return f"[green]ready[/]: `instar run` would serve this{note}{hint}"
