"""UNIX socket addresses longer than the kernel takes."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

#: Size of `sun_path`, with its closing zero (unix(7)).
SUN_PATH = 108


@contextlib.contextmanager
def unix_address(path: Path) -> Iterator[str]:
    """An address for bind() or connect() that reaches `path`, however long the path is.

    A long one goes through /proc/self/fd/N of its folder, which is held open for the time of the block.
    """
    if len(os.fsencode(path)) < SUN_PATH:
        yield str(path)
        return
    folder = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{folder}/{path.name}"
    finally:
        os.close(folder)
