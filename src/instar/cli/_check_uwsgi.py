"""`instar check` for a configuration of uWSGI: what each line does, and the traps in it."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from instar.cli._check_plan import describe
from instar.cli._findings import MARKS, Finding, error, ok, warning
from instar.cli._format import console, escaped, print_json
from instar.errors import ConfigError, ExitCode

if TYPE_CHECKING:
    from instar.uwsgi.explain import Explanation
    from instar.uwsgi.model import Instance
    from instar.uwsgi.traps import Trap

_STYLES = {
    "kept": "green",
    "built-in": "green",
    "ignored": "dim",
    "overridden": "dim",
    "language": "dim",
    "unsupported": "yellow",
    "unknown": "yellow",
    "refused": "red",
}


@dataclasses.dataclass(frozen=True)
class _Checked:
    """All that was found about one file."""

    name: str
    findings: list[Finding]
    lines: list[Explanation] = dataclasses.field(default_factory=list)
    traps: list[Trap] = dataclasses.field(default_factory=list)
    instance: Instance | None = None

    @property
    def errors(self) -> int:
        return sum(finding.level == "error" for finding in self.findings)

    def to_dict(self) -> dict[str, Any]:
        return {
            "ok": not self.errors,
            "config": self.name,
            "kind": "uwsgi",
            "plan": [{"what": label, "text": text} for label, text in _plan(self.instance)],
            "lines": [line.to_dict() for line in self.lines],
            "traps": [trap.to_dict() for trap in self.traps],
            "findings": [finding.to_dict() for finding in self.findings],
        }


def check_uwsgi(name: str, *, load: bool, timeout: float | None, json: bool) -> None:
    """Explain a file, look for traps, and check what `instar uwsgi` would run."""
    checked = _check(name, None, load=load, timeout=timeout)
    if json:
        print_json(checked.to_dict())
    else:
        _show(checked)
    if checked.errors:
        raise typer.Exit(ExitCode.USAGE)


def check_folder(folder: Path, *, load: bool, timeout: float | None, json: bool) -> None:
    """The same for each file of uWSGI in a folder; relative names start there, as they do for vassals."""
    from instar.config.formats.uwsgi import is_uwsgi_file

    names = sorted(path.name for path in folder.iterdir() if is_uwsgi_file(path.name) and path.is_file())
    if not names:
        raise ConfigError(f"cannot check {folder}: there is no file of uWSGI in it; check an instar.toml with -c FILE")
    files = [_check(name, folder, load=load, timeout=timeout) for name in names]
    errors = sum(item.errors for item in files)
    if json:
        answer = [item.to_dict() for item in files]
        print_json({"ok": not errors, "config": str(folder), "kind": "folder", "files": answer})
    else:
        for item in files:
            _show(item)
    if errors:
        raise typer.Exit(ExitCode.USAGE)


def _check(name: str, folder: Path | None, *, load: bool, timeout: float | None) -> _Checked:
    from instar.config.formats.uwsgi import Surroundings, read
    from instar.uwsgi.explain import by_table, explain
    from instar.uwsgi.translate import Translation
    from instar.uwsgi.traps import traps

    around = Surroundings(cwd=folder.absolute()) if folder else Surroundings()
    try:
        config = read(name, surroundings=around)
    except ConfigError as problem:
        return _Checked(name, _errors(problem))
    translation = Translation(config, around)
    notes = [warning(str(note.place), note.text) for note in config.notes]
    try:
        lines, instance = explain(translation), translation.instance()
    except ConfigError as problem:
        return _Checked(name, notes + _errors(problem), by_table(translation))
    findings = [*notes, *_examine(instance, load=load, timeout=timeout)]
    return _Checked(name, findings, lines, traps(translation), instance)


def _errors(problem: ConfigError) -> list[Finding]:
    return [error("configuration", line) for line in str(problem).splitlines()]


def _examine(instance: Instance, *, load: bool, timeout: float | None) -> Iterator[Finding]:
    from instar.cli.check import examine

    if instance.config is None:
        return
    for finding in examine(instance.config, load=load, timeout=timeout or instance.config.restart.boot_timeout):
        # uWSGI starts without these folders, and so does instar.
        missing = finding.level == "error" and finding.subject.startswith(("[web.static]", "[app] pythonpath"))
        yield dataclasses.replace(finding, level="warning") if missing else finding


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


def _show(checked: _Checked) -> None:
    from rich.table import Table

    screen = console()
    for file, group in itertools.groupby(checked.lines, key=lambda line: line.place.file):
        screen.print(f"[bold]{escaped(file or checked.name)}[/]")
        table = Table(box=None, padding=(0, 2, 0, 0), show_header=False)
        for line in group:
            setting = f" [dim]({escaped(line.setting)})[/]" if line.setting else ""
            effect = f"[{_STYLES[line.effect]}]{line.effect}[/]"
            what = f"{escaped(line.key)}: {escaped(line.value)}" if line.value else escaped(line.key)
            table.add_row(str(line.place.line or ""), what, effect, f"{escaped(line.text)}{setting}")
        screen.print(table)
    rest = Table(box=None, padding=(0, 2, 0, 0), show_header=False)
    for label, text in _plan(checked.instance):
        rest.add_row("", escaped(label), escaped(text))
    for finding in [*map(_trap, checked.traps), *checked.findings]:
        rest.add_row(MARKS[finding.level], escaped(finding.subject), escaped(finding.text))
    screen.print()
    screen.print(rest)
    screen.print()
    screen.print(_verdict(checked))


def _trap(trap: Trap) -> Finding:
    if trap.solved:
        return ok("trap solved", trap.text)
    return warning("trap", f"{trap.place}: {trap.text}" if trap.place.file else trap.text)


def _verdict(checked: _Checked) -> str:
    if checked.errors:
        errors = f"{checked.errors} error{'s' if checked.errors > 1 else ''}"
        return f"[red]{errors}[/]: `instar uwsgi {escaped(checked.name)}` would not work"
    name = escaped(checked.name)
    return f"[green]ready[/]: run it with `instar uwsgi {name}`, or make an instar.toml with `instar convert {name}`"
