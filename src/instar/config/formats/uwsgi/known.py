"""The names of uWSGI's options: of all plugins and builds of 2.0, so that a typo can be told from a plugin's option."""

from __future__ import annotations

import functools
from importlib import resources

from instar.config.nearest import nearest


@functools.cache
def known_names() -> frozenset[str]:
    """All of them."""
    text = resources.files("instar.config.formats.uwsgi").joinpath("known.txt").read_text(encoding="ascii")
    return frozenset(text.split())


def is_known(key: str) -> bool:
    """Whether uWSGI has this option."""
    return key in known_names()


def nearest_name(key: str) -> str | None:
    """The option that looks most like it, if any does."""
    by_word = {name.replace("-", "_"): name for name in sorted(known_names())}
    match = nearest(key.replace("-", "_"), by_word)
    return by_word[match] if match else None
