"""What each of uWSGI's options does under instar: the table, and the look-up in it."""

from __future__ import annotations

import dataclasses
import functools
import tomllib
from collections.abc import Mapping
from importlib import resources
from typing import Literal, cast

from instar.config.formats.uwsgi.known import is_known, nearest_name

Effect = Literal["kept", "built-in", "ignored", "unsupported", "refused", "language", "unknown"]


@dataclasses.dataclass(frozen=True)
class Meaning:
    """One row. `text` is what there is to say: what it does, why it has no effect, or what to do instead."""

    names: tuple[str, ...]
    effect: Effect
    text: str
    #: Key of `instar.toml` that does it: `web.workers`.
    key: str = ""


@dataclasses.dataclass(frozen=True)
class Group:
    """Rows that belong together."""

    title: str
    rows: tuple[Meaning, ...]


@functools.cache
def groups() -> tuple[Group, ...]:
    """The table, in the order in which people read it."""
    text = resources.files("instar.uwsgi").joinpath("options.toml").read_text(encoding="utf-8")
    return tuple(Group(item["title"], tuple(map(_row, item["rows"]))) for item in tomllib.loads(text)["group"])


def _row(cells: list[str]) -> Meaning:
    names, effect, key, text = cells
    return Meaning(tuple(names.split()), cast(Effect, effect), text, key)


@functools.cache
def _exact() -> Mapping[str, Meaning]:
    return {name: row for group in groups() for row in group.rows for name in row.names if not name.endswith("*")}


@functools.cache
def _prefixes() -> Mapping[str, Meaning]:
    found = {name[:-1]: row for group in groups() for row in group.rows for name in row.names if name.endswith("*")}
    return dict(sorted(found.items(), key=lambda item: -len(item[0])))


@functools.cache
def meaning(name: str) -> Meaning:
    """What the option does. One that nobody knows is probably a variable of the file, or a typo."""
    if row := _exact().get(name):
        return row
    if name.startswith("instar."):
        return Meaning((name,), "kept", "a setting of instar", name.removeprefix("instar."))
    for prefix, row in _prefixes().items():
        if name.startswith(prefix) and is_known(name):
            return row
    if is_known(name):
        return Meaning((name,), "unsupported", "instar has nothing like it; leave it out, or run this part on uWSGI")
    near = nearest_name(name)
    hint = f"did you mean {near}?" if near else "a variable for %(…)"
    return Meaning((name,), "unknown", f"uWSGI has no such option, nor has instar; {hint}")


def synonyms(name: str) -> tuple[str, ...]:
    """All names of an option of which the last line counts. Rows of options that only share an explanation don't
    help here, so these are listed."""
    return next((group for group in _SYNONYMS if name in group), (name,))


_SYNONYMS = tuple(
    tuple(names.split())
    for names in (
        "processes workers",
        "module wsgi",
        "wsgi-file file",
        "virtualenv venv home pyhome",
        "chmod-socket chmod",
        "protocol socket-protocol",
        "lazy-apps lazy",
        "uid immediate-uid",
        "gid immediate-gid",
        "offload-threads offload-thread",
    )
)
