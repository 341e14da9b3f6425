"""`instar init`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from instar.cli._format import print_json
from instar.cli._options import Json
from instar.cli._write import write_new
from instar.errors import ConfigError

if TYPE_CHECKING:
    from instar.config.discover import Candidate, Project

FILE = "instar.toml"


def init(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="The project.", show_default="here")] = Path(),
    target: Annotated[
        str | None,
        typer.Option(metavar="MODULE:ATTR", help="Take this application instead of the likeliest.", show_default=False),
    ] = None,
    force: Annotated[bool, typer.Option("-f", "--force", help="Replace a file that exists.")] = False,
    stdout: Annotated[bool, typer.Option("--stdout", help="Print the file instead of writing it.")] = False,
    json: Json = False,
) -> None:
    """Write a commented instar.toml for the project in this folder.

    Finds Django, Flask, FastAPI, Starlette and similar applications by reading the source; nothing is imported.

    \b
    Examples:
      instar init
      instar init ../mysite --target mysite.asgi:application
      instar init --stdout | less
    """
    from instar.config.discover import discover
    from instar.config.template import render

    if not folder.is_dir():
        raise ConfigError(f"cannot write {FILE} for {folder}: there is no such folder")
    project = discover(folder)
    chosen = _choose(project, target)
    text = render(project, chosen)
    if stdout:
        typer.echo(text, nl=False)
        return
    path = folder / FILE
    write_new(path, text, force=force)
    if json:
        print_json(_answer(path, project, chosen))
    else:
        _report(path, project, chosen)


def _choose(project: Project, target: str | None) -> Candidate | None:
    from instar.config.discover import Candidate

    if target is None:
        return project.candidates[0] if project.candidates else None
    for candidate in project.candidates:
        if candidate.target == target:
            return candidate
    _check_target(target)
    return Candidate("The application", target, "auto", "the command line", 0)


def _check_target(target: str) -> None:
    from instar.config import load

    # The file, if there is one, is about to be replaced and does not count.
    load(Path("/dev/null"), target=target)


def _answer(path: Path, project: Project, chosen: Candidate | None) -> dict[str, object]:
    import dataclasses

    found = [dataclasses.asdict(candidate) for candidate in project.candidates]
    return {"file": str(path.absolute()), "target": chosen.target if chosen else None, "found": found}


def _report(path: Path, project: Project, chosen: Candidate | None) -> None:
    if chosen is None:
        typer.echo("No application was found in the source.")
        typer.echo(f"Wrote {path}: write the application's place into it, [app] target.")
        return
    where = f"{chosen.file}:{chosen.line}" if chosen.line else chosen.file
    typer.echo(f"Found {chosen.framework}: {chosen.target} ({chosen.interface.upper()}, {where})")
    for note in chosen.notes:
        typer.echo(f"  note: {note}")
    typer.echo(f"  health probe: {chosen.health.path} ({chosen.health.why})")
    for item in chosen.static:
        typer.echo(f"  static files: {item.prefix} from {item.folder}{'' if item.exists else ' (not there yet)'}")
    others = [candidate for candidate in project.candidates if candidate is not chosen]
    for other in others[:5]:
        typer.echo(f"  also: {other.framework} {other.target} (--target {other.target} takes it)")
    typer.echo(f"Wrote {path}. Try next:")
    option = "" if path.parent == Path() else f" -c {path}"
    typer.echo(f"  instar check --load{option}    try it without serving")
    typer.echo(f"  instar run{option}             serve it on http://127.0.0.1:8000")
    typer.echo(f"  instar restart{option}         later, from another terminal, to bring in new code")
