"""Options that several verbs share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

ConfigFile = Annotated[
    Path | None,
    typer.Option(
        "-c",
        "--config",
        metavar="FILE",
        help="Configuration file.",
        show_default="./instar.toml",
        rich_help_panel="Which one",
    ),
]
Name = Annotated[
    str | None,
    typer.Option(
        "--name",
        metavar="NAME",
        help="Name of the application, where there is no file.",
        show_default="app.name of the file, else main",
        rich_help_panel="Which one",
    ),
]
StateDir = Annotated[
    Path | None,
    typer.Option(
        "--state-dir",
        metavar="DIR",
        help="State directory of the supervisor.",
        show_default="follows from the name",
        rich_help_panel="Which one",
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object for scripts.")]
