"""`instar uwsgi`, which is also `instar-uwsgi`: stands where the `uwsgi` binary stood."""

from __future__ import annotations

import sys
from typing import NoReturn

from instar import __version__
from instar.cli import guarded

#: The arguments are uWSGI's own, and none of them is looked at here.
PASSED_ON = {"ignore_unknown_options": True, "allow_interspersed_args": False, "help_option_names": []}


def uwsgi() -> None:
    """Run a uWSGI configuration: the same files and options, without uWSGI.

    All arguments are uWSGI's. Also installed as `instar-uwsgi`, to stand where the `uwsgi` binary stood, for example
    as `--emperor-wrapper`. `instar check FILE` tells what each line of a file does.

    \b
    Examples:
      instar uwsgi --yaml /srv/galaxy/config/galaxy.yml
      instar uwsgi --emperor /srv/galaxy/vassals --emperor-wrapper /srv/galaxy/venv/bin/instar-uwsgi
      instar uwsgi --http :8080 --module mysite.wsgi:application --processes 4
    """


def main(arguments: list[str]) -> int:
    """Run with uWSGI's arguments; returns the exit code. Raises InstarError."""
    if not arguments or arguments in (["--help"], ["-h"]):
        from instar.cli import build

        build("uwsgi")(["uwsgi", "--help"], prog_name="instar", standalone_mode=False)
        return 0
    if arguments == ["--version"]:
        # Whoever asks wants to know whether this is the real one; 2.0.31 is whose behaviour it has.
        print(f"instar {__version__} (for uWSGI 2.0.31)")
        return 0
    from instar.uwsgi.command import run

    return run(arguments)


def entry() -> NoReturn:
    """Entry point of `instar-uwsgi`."""
    guarded(lambda: main(sys.argv[1:]))
