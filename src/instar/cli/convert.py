"""`instar convert`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from instar.cli._format import print_json
from instar.cli._options import Json
from instar.cli._write import write_new
from instar.errors import ConfigError

if TYPE_CHECKING:
    from instar.config.formats.uwsgi import Surroundings
    from instar.uwsgi.translate import Translation


def convert(
    files: Annotated[
        list[str],
        typer.Argument(metavar="FILE...", help="Files of uWSGI: .yml, .ini, .xml, .json, also FILE:SECTION."),
    ],
    output: Annotated[
        Path | None, typer.Option("-o", "--output", metavar="FILE", help="Write to this file.", show_default="print")
    ] = None,
    name: Annotated[
        str | None, typer.Option(metavar="NAME", help="Name of the application.", show_default="that of the file")
    ] = None,
    force: Annotated[bool, typer.Option("-f", "--force", help="Replace a file that exists.")] = False,
    json: Json = False,
) -> None:
    """Turn a uWSGI configuration into an instar.toml.

    Handlers keep their names exactly, since stored jobs refer to them. What could not be carried over is said in
    comments at the top. Name the pool's file together with the zergling's; one that stands beside it is found.

    \b
    Examples:
      instar convert site.ini -o instar.toml
      instar convert vassals/vassal-zergling.yml vassals/vassal-zergpool.yml -o instar.toml
      instar convert galaxy.yml --json
    """
    from instar.uwsgi.convert import convert as make

    made = make(_read(files), name=name or "")
    if output is not None:
        write_new(output, made.text, force=force)
    if json:
        path = str(output.absolute()) if output else None
        print_json({"file": path, "toml": made.text, "left_out": list(made.left_out)})
    elif output is None:
        typer.echo(made.text, nl=False)
    else:
        for text in made.left_out:
            typer.echo(f"  not carried over: {text}")
        typer.echo(f"Wrote {output}. Try next: instar check --load -c {output}")


def _read(files: list[str]) -> list[Translation]:
    from instar.config.formats.uwsgi import Surroundings, read
    from instar.uwsgi.translate import Translation

    around = Surroundings()
    found = [Translation(read(name, surroundings=around), around) for name in files]
    missing = {path for item in found for path in item.zerg} - _pools(found)
    for item in list(found):
        if missing and item.config.source:
            found += [other for other in _beside(item.config.source, around) if _pools([other]) & missing]
            missing -= _pools(found)
    return found


def _pools(found: list[Translation]) -> set[Path]:
    return {pool.path for item in found for pool in item.sockets.pools}


def _beside(source: Path, around: Surroundings) -> list[Translation]:
    """Other files of the folder that can be read."""
    from instar.config.formats.uwsgi import is_uwsgi_file, read
    from instar.uwsgi.translate import Translation

    found = []
    for path in sorted(source.parent.iterdir()):
        if path != source and path.is_file() and is_uwsgi_file(path.name):
            try:
                item = Translation(read(str(path), surroundings=around), around)
                _pools([item])
            except ConfigError:
                continue
            found.append(item)
    return found
