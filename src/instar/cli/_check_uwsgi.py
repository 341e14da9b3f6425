"""`instar check` for a configuration of uWSGI: what each line does, and the traps in it."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import typer

from instar.cli._check_plan import describe
from instar.cli._findings import MARKS, Finding, error, ok, warning
from instar.cli._format import console, escaped, print_json
from instar.errors import ConfigError, ExitCode

if TYPE_CHECKING:
    from instar.uwsgi.explain import Explanation
    from instar.uwsgi.model import Instance
    from instar.uwsgi.translate import Translation
    from instar.uwsgi.traps import Trap

_STYLES = {
    "kept": "green",
    "built-in": "green",
    "ignored": "dim",
    "overridden": "dim",
    "skipped": "dim",
    "language": "dim",
    "unsupported": "yellow",
    "unknown": "yellow",
    "refused": "red",
}


def check_uwsgi(name: str, *, load: bool, timeout: float | None, json: bool) -> None:
    """Explain a file, look for traps, and check what `instar uwsgi` would run."""
    from instar.config.formats.uwsgi import Surroundings, read
    from instar.uwsgi.translate import Translation

    around = Surroundings()
    try:
        config = read(name, surroundings=around)
    except ConfigError as problem:
        if not json:
            raise
        print_json(_answer(name, [], [], None, [error("configuration", line) for line in str(problem).splitlines()]))
        raise typer.Exit(ExitCode.USAGE) from None
    translation = Translation(config, around)
    lines, found, instance, findings = _look(translation, load=load, timeout=timeout)
    notes = [warning(str(note.place), note.text) for note in config.notes]
    if json:
        print_json(_answer(name, lines, found, instance, notes + findings))
    else:
        _show(name, lines, found, instance, notes + findings)
    if any(finding.level == "error" for finding in findings):
        raise typer.Exit(ExitCode.USAGE)


def _look(
    translation: Translation, *, load: bool, timeout: float | None
) -> tuple[list[Explanation], list[Trap], Instance | None, list[Finding]]:
    from instar.uwsgi.explain import explain
    from instar.uwsgi.traps import traps

    try:
        lines = explain(translation)
        instance = translation.instance()
    except ConfigError as problem:
        return (
            _lines_at_least(translation),
            [],
            None,
            [error("configuration", line) for line in str(problem).split("\n")],
        )
    return lines, traps(translation), instance, list(_examine(instance, load=load, timeout=timeout))


def _lines_at_least(translation: Translation) -> list[Explanation]:
    """What the table alone says, where the values can't be understood."""
    from instar.uwsgi.explain import by_table

    return by_table(translation)


def _examine(instance: Instance, *, load: bool, timeout: float | None) -> Iterator[Finding]:
    from instar.cli.check import examine

    if instance.config is None:
        return
    for finding in examine(instance.config, load=load, timeout=timeout or instance.config.restart.boot_timeout):
        # uWSGI starts without these folders, and so does instar.
        missing = finding.level == "error" and finding.subject.startswith(("[web.static]", "[app] pythonpath"))
        yield dataclasses.replace(finding, level="warning") if missing else finding


def _answer(
    name: str, lines: list[Explanation], found: list[Trap], instance: Instance | None, findings: list[Finding]
) -> dict[str, Any]:
    return {
        "ok": not any(finding.level == "error" for finding in findings),
        "config": name,
        "kind": "uwsgi",
        "plan": [{"what": label, "text": text} for label, text in _plan(instance)],
        "lines": [line.to_dict() for line in lines],
        "traps": [trap.to_dict() for trap in found],
        "findings": [finding.to_dict() for finding in findings],
    }


def _plan(instance: Instance | None) -> Iterator[tuple[str, str]]:
    """What runs, in words."""
    if instance is None:
        return
    if instance.config is not None:
        rows = dict(describe(instance.config)) | _handlers(instance)
        pools = [f"those of the pool {path}" for path in instance.zerg]
        yield from ({**rows, "addresses": ", ".join([*filter(None, [rows["addresses"]]), *pools])}).items()
    for pool in instance.pools:
        yield "pool", f"{pool.path} hands out {', '.join(pool.addresses)}"
    for router in instance.routers:
        yield "HTTP", f"{router.address}, answered by the zerglings of {', '.join(router.nodes)}"
    if instance.fifos:
        yield "FIFOs", ", ".join(map(str, instance.fifos))
    for hook in instance.hooks:
        yield f"hook {hook.phase}", f"{hook.action}:{'…' if hook.secret else hook.argument}"
    for folder in instance.emperor:
        yield "Emperor", f"each file in {folder} is an instance"


def _handlers(instance: Instance) -> dict[str, str]:
    from instar.uwsgi.explain import work

    pools: dict[str, list[str]] = {}
    for mule in instance.mules:
        pools.setdefault(f"handlers {mule.pool}", []).append(f"{mule.name} {work(mule)}")
    return {pool: ", ".join(texts) for pool, texts in pools.items()}


def _show(
    name: str, lines: list[Explanation], found: list[Trap], instance: Instance | None, findings: list[Finding]
) -> None:
    from rich.table import Table

    screen = console()
    for file, group in itertools.groupby(lines, key=lambda line: line.place.file):
        screen.print(f"[bold]{escaped(file or name)}[/]")
        table = Table(box=None, padding=(0, 2, 0, 0), show_header=False)
        for line in group:
            setting = f" [dim]({escaped(line.setting)})[/]" if line.setting else ""
            effect = f"[{_STYLES[line.effect]}]{line.effect}[/]"
            what = f"{escaped(line.key)}: {escaped(line.value)}" if line.value else escaped(line.key)
            table.add_row(str(line.place.line or ""), what, effect, f"{escaped(line.text)}{setting}")
        screen.print(table)
    rest = Table(box=None, padding=(0, 2, 0, 0), show_header=False)
    for label, text in _plan(instance):
        rest.add_row("", escaped(label), escaped(text))
    for finding in [*map(_trap, found), *findings]:
        rest.add_row(MARKS[finding.level], escaped(finding.subject), escaped(finding.text))
    screen.print()
    screen.print(rest)
    screen.print()
    screen.print(_verdict(name, findings))


def _trap(trap: Trap) -> Finding:
    if trap.solved:
        return ok("trap solved", trap.text)
    return warning("trap", f"{trap.place}: {trap.text}" if trap.place.file else trap.text)


def _verdict(name: str, findings: list[Finding]) -> str:
    errors = sum(finding.level == "error" for finding in findings)
    if errors:
        return f"[red]{errors} error{'s' if errors > 1 else ''}[/]: `instar uwsgi` would not work"
    return f"[green]ready[/]: run it with `instar uwsgi {escaped(name)}`, or make an instar.toml with `instar convert`"
