"""A thread for one call: what the kernel keeps for each thread (credentials, attributes of prctl(2)) ends with it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TypeVar

_T = TypeVar("_T")


def in_a_thread(act: Callable[[], _T], name: str) -> _T:
    """Call `act` in a thread of its own and wait. Returns what it returns, raises what it raises."""
    result: list[_T] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            result.append(act())
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=run, name=name)
    thread.start()
    thread.join()
    if errors:
        raise errors[0]
    return result[0]
