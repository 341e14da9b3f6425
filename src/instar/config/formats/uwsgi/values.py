"""How uWSGI reads the values of its options."""

from __future__ import annotations

import re

_INTEGER = re.compile(r"[ \t\n\v\f\r]*([+-]?[0-9]+)")


def is_true(value: str) -> bool:
    """A switch is on unless it says false, off, no (in any case) or 0: also `null`, `none` and nothing are "on"."""
    return value.lower() not in ("false", "off", "no") and value != "0"


def integer(value: str) -> int:
    """Like C's atoi(): the digits at the start; 0 where there are none."""
    match = _INTEGER.match(value)
    return int(match[1]) if match else 0
