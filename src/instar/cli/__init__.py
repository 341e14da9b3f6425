"""The command line: one file per verb, and `main`, which turns errors into sentences and exit codes."""

from __future__ import annotations

import importlib
import inspect
import io
import os
import signal
import sys
from collections.abc import Callable
from typing import Annotated, NoReturn

import typer

from instar import __version__
from instar.errors import ExitCode, InstarError

#: In the order of the help text. `instar.cli.VERB` holds `VERB`, with _ for -: a function, or a typer
#: application of sub-commands.
VERBS = (
    "init",
    "check",
    "convert",
    "run",
    "uwsgi",
    "restart",
    "rollback",
    "upgrade",
    "handlers",
    "workers",
    "jobs",
    "status",
    "history",
    "logs",
    "stop",
    "cleanup",
    "systemd-unit",
    "version",
)

_HELP = """Run a Python web application and restart it into new code without dropping a request.

\b
Start here:
  instar init                   write a commented instar.toml for this project
  instar run                    serve the application
  instar restart                replace it with the code that is on disk now
  instar status                 what runs, and how it is doing
"""
_EPILOG = (
    "Exit codes: 0 done, 1 unexpected, 2 usage or configuration, 3 rolled back, 4 busy, 5 no supervisor, "
    "6 a handler kept its name, 7 the job failed."
)


def main() -> NoReturn:
    """Entry point of `instar` and `python -m instar`. A traceback is only shown with INSTAR_DEBUG=1."""
    guarded(lambda: _run(sys.argv[1:]))


def _run(arguments: list[str]) -> int:
    if arguments[:1] == ["uwsgi"]:
        # Its options are not ours to parse.
        return int(importlib.import_module("instar.cli.uwsgi").main(arguments[1:]))
    build(_verb(arguments))(prog_name="instar")
    return ExitCode.DONE


def guarded(run: Callable[[], int]) -> NoReturn:
    """Run a command and end the process with its exit code; errors become sentences."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a terminal that can't show a character shows its number
            stream.reconfigure(errors="backslashreplace")
    try:
        code = run()
    except InstarError as error:
        _fail(error, str(error), error.exit_code)
    except BrokenPipeError:  # `instar logs | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(ExitCode.UNEXPECTED)
    except KeyboardInterrupt:  # while it is being imported, too: no traceback for a Ctrl-C
        sys.exit(128 + signal.SIGINT)
    except Exception as error:
        text = f"cannot go on: unexpected {type(error).__name__}: {error}; set INSTAR_DEBUG=1 to see where"
        _fail(error, text, ExitCode.UNEXPECTED)
    sys.exit(code)


def build(verb: str | None = None) -> typer.Typer:
    """The typer application. With a verb, only its module is imported: that is what makes `instar status` quick."""
    app = typer.Typer(
        name="instar",
        help=_HELP,
        epilog=_EPILOG,
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback()(_global_options)
    for name in VERBS if verb is None else (verb,):
        identifier = name.replace("-", "_")
        command = getattr(importlib.import_module(f"instar.cli.{identifier}"), identifier)
        if isinstance(command, typer.Typer):
            app.add_typer(command, name=name)
        else:
            app.command(name, help=help_text(command.__doc__))(command)
    return app


def help_text(docstring: str | None) -> str:
    """A docstring with each paragraph on one line, which rich wraps; those that begin with \\b stay as they are."""
    paragraphs = inspect.cleandoc(docstring or "").split("\n\n")
    return "\n\n".join(text if text.startswith("\b") else text.replace("\n", " ") for text in paragraphs)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"instar {__version__}")
        raise typer.Exit


_Version = Annotated[bool, typer.Option("--version", help="Show the version.", is_eager=True, callback=_show_version)]


def _global_options(version: _Version = False) -> None:
    """Options before the verb."""


def _verb(arguments: list[str]) -> str | None:
    """The verb if it is clear at first sight; None for help, completion and mistakes, which need all verbs."""
    return arguments[0] if arguments and arguments[0] in VERBS else None


def _fail(error: BaseException, text: str, code: int) -> NoReturn:
    if os.environ.get("INSTAR_DEBUG", "") not in ("", "0"):
        raise error
    sys.stdout.flush()
    print(f"instar: {text}", file=sys.stderr)
    sys.exit(code)
