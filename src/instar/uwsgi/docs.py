"""Writes docs/uwsgi-options.md from the table of options: `python -m instar.uwsgi.docs [FILE]`."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

from instar.uwsgi.options import Group, Meaning, groups

_INTRO = """\
# uWSGI's options under instar

<!-- Made by `python -m instar.uwsgi.docs docs/uwsgi-options.md` from src/instar/uwsgi/options.toml. -->

What each option of a uWSGI configuration does when it is run by `instar uwsgi` (see [uWSGI's files](uwsgi.md)).
`instar check FILE` says the same of each line of a file.

- **kept**: it does what it does under uWSGI. The key of `instar.toml` that does it stands behind it.
- **built-in**: always so; the line changes nothing.
- **ignored**: it has no effect, and needs none.
- **unsupported**: it has no effect. A warning at the start says so, and what to do instead.
- **refused**: the instance does not start, since leaving the line out would be unsafe. `--set instar.ignore=OPTION`
  starts it without.
- **language**: read while the file is.

A name with a `*` stands for all options that begin so. Every other option of uWSGI is unsupported; a name that uWSGI
does not have either is a variable of the file, or a typo if it looks like an option.
"""


def render() -> str:
    """The whole page."""
    return "\n".join([_INTRO, *(line for group in groups() for line in _group(group))])


def _group(group: Group) -> Iterator[str]:
    yield f"## {group.title}\n"
    yield "| Option | Under instar | |"
    yield "|---|---|---|"
    yield from map(_row, group.rows)
    yield ""


def _row(row: Meaning) -> str:
    names = ", ".join(f"`{name}`" for name in row.names)
    key = f" (`{row.key}`)" if row.key else ""
    return f"| {names} | {row.effect} | {row.text}{key} |"


def main(arguments: list[str]) -> None:
    """Write the page to the named file, or print it."""
    if arguments:
        Path(arguments[0]).write_text(render(), encoding="utf-8")
    else:
        sys.stdout.write(render())


if __name__ == "__main__":
    main(sys.argv[1:])
