"""uWSGI's options: of all plugins and builds of 2.0, so that a typo can be told from a plugin's option.

`known.txt` has one a line: name, then a letter each for its argument (n none, r required, o optional), its kind (s
switch, t text, n number, l list), whether it acts while the file is read (i), and its short form. Taken from the option
tables in uWSGI's source, branch uwsgi-2.0.
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
from collections.abc import Mapping
from importlib import resources
from typing import Literal

Argument = Literal["none", "required", "optional"]
Kind = Literal["switch", "text", "number", "list"]

_ARGUMENTS: dict[str, Argument] = {"n": "none", "r": "required", "o": "optional"}
_KINDS: dict[str, Kind] = {"s": "switch", "t": "text", "n": "number", "l": "list"}


@dataclasses.dataclass(frozen=True)
class Known:
    """One option. A list keeps all its values, of all others the last counts."""

    name: str
    argument: Argument
    kind: Kind
    #: `$(…)` and the like aren't replaced in it: it acts while the file is read.
    immediate: bool
    #: `-s` for `--socket`; empty without one.
    letter: str


@functools.cache
def known_options() -> Mapping[str, Known]:
    """All of them by name."""
    text = resources.files("instar.config.formats.uwsgi").joinpath("known.txt").read_text(encoding="ascii")
    return {option.name: option for option in map(_parse, text.splitlines())}


def _parse(line: str) -> Known:
    name, _, code = line.partition(" ")
    return Known(name, _ARGUMENTS[code[0]], _KINDS[code[1]], code[2] == "i", code[3:])


def is_known(key: str) -> bool:
    """Whether uWSGI has this option."""
    return key in known_options()


def is_immediate(key: str) -> bool:
    """Whether it acts while the file is read."""
    option = known_options().get(key)
    return option is not None and option.immediate


@functools.cache
def nearest_name(key: str) -> str | None:
    """The option that looks most like it, if one does: with so many options, some word is always a bit alike."""
    by_word = {name.replace("-", "_"): name for name in known_options()}
    matches = difflib.get_close_matches(key.lower().replace("-", "_"), by_word, n=1, cutoff=0.82)
    return by_word[matches[0]] if matches else None
