"""Waiting for a condition with a limit: the only kind of sleep in these tests."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def wait_for(what: str, check: Callable[[], T], limit: float = 20.0, interval: float = 0.05) -> T:
    """The first true value of `check`; fails after `limit` seconds."""
    end = time.monotonic() + limit
    while True:
        if found := check():
            return found
        if time.monotonic() > end:
            raise AssertionError(f"not within {limit} s: {what} (last: {found!r})")
        time.sleep(interval)
