"""The nearest known word, for messages."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def nearest(word: str, known: Iterable[str]) -> str | None:
    """The known word that looks most like `word`, if any does."""
    by_lower = {name.lower(): name for name in known}
    matches = difflib.get_close_matches(word.lower().replace("-", "_"), by_lower, n=1, cutoff=0.6)
    return by_lower[matches[0]] if matches else None


def did_you_mean(word: str, known: Iterable[str], template: str = "{}") -> str:
    """`; did you mean X?`, or nothing when no known word is near."""
    match = nearest(word, known)
    return f"; did you mean {template.format(match)}?" if match else ""
