"""`%d`, `%n` and the other placeholders of one character: replaced in the text of a file before it is parsed."""

from __future__ import annotations

import os
import re
from pathlib import Path

from instar.config.formats.uwsgi.surroundings import Surroundings

#: Stands for a line end that a `%` before it has taken away, until lines are numbered.
GLUE = "\0"

_PLACEHOLDER = re.compile(r"%(.|\Z)", re.DOTALL)
#: Upper case: the value for the file that was named first.
_OUTERMOST = "odspcenxij"


class Magic:
    """The table. It keeps the values of the file that was read last, as uWSGI's does."""

    def __init__(self, surroundings: Surroundings) -> None:
        self._cwd = surroundings.cwd
        self._table = surroundings.placeholders()
        self._outermost_known = False

    def enter(self, name: str, path: str, section: str | None, *, outermost: bool = True) -> None:
        """A file is about to be read. `name` is how it was named, `path` without the section ("" for `:section`)."""
        self._table["o"] = name
        if path:
            self._table |= _of_file(self._full(path))
        self._table["x"] = section or ""
        if outermost and not self._outermost_known:
            self._outermost_known = True
            self._table |= {letter.upper(): self._table.get(letter, "") for letter in _OUTERMOST}

    def substitute(self, text: str) -> str:
        """The text with every `%?` replaced; unknown ones vanish, also when `?` is the end of the line."""
        return _PLACEHOLDER.sub(self._value, text)

    def _value(self, match: re.Match[str]) -> str:
        return GLUE if match[1] == "\n" else self._table.get(match[1], "")

    def _full(self, path: str) -> str:
        whole = self._cwd / path
        # The name of a symbolic link says more than what it points to: vassals are often links.
        return str(whole) if whole.is_symlink() else os.path.realpath(whole)


def _of_file(path: str) -> dict[str, str]:
    folder, _, name = path.rpartition("/")
    stem, dot, extension = name.rpartition(".")
    parts = [part for part in folder.split("/") if part]
    return {
        "p": path,
        "s": name,
        "d": folder + "/",
        "c": folder.rpartition("/")[2],
        "e": extension if dot else "",
        "n": stem if dot else name,
        "j": _hash(path),
        "i": _inode(path),
        **{str(number): parts[number] if number < len(parts) else "" for number in range(10)},
    }


def _hash(text: str) -> str:
    """Bernstein's hash with xor, as uWSGI prints it: the four bytes in memory order."""
    value = 5381
    for byte in os.fsencode(text):
        value = (value * 33 ^ byte) & 0xFFFFFFFF
    return value.to_bytes(4, "little").hex().upper()


def _inode(path: str) -> str:
    try:
        return str(Path(path).lstat().st_ino)
    except OSError:
        return ""
