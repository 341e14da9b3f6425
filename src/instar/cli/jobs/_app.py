"""The typer application that the sub-commands register with."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

import typer

from instar.cli import help_text

jobs = typer.Typer(
    help=help_text(
        """Submit jobs, look at them, wait for them.

        A job that was submitted is stored: it runs once, also when everything is restarted or killed meanwhile. These
        commands work on the store itself, whether the application runs or not.
        """
    ),
    no_args_is_help=True,
)

Id = Annotated[int, typer.Argument(metavar="JOB", help="Number of the job.", show_default=False)]


def command(name: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Make a function a sub-command, with its docstring as help."""

    def register(function: Callable[..., None]) -> Callable[..., None]:
        return jobs.command(name, help=help_text(function.__doc__))(function)

    return register
