"""The current folder, as the user's shell names it."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

#: What a folder (device and inode) was called when it was first seen.
_names: dict[tuple[int, int], Path] = {}


def current_folder() -> Path:
    """The current folder (absolute), with its symbolic links.

    After `cd current; instar run` the kernel only knows the release that the link `current` pointed to, and a
    restart would find the old release again and again. The shell's name of the folder (PWD, POSIX sh) leads to the
    new one. It is checked once, at the first call: later it may already lead to another folder.
    """
    info = os.stat(".")  # noqa: PTH116 - works in a folder that was deleted meanwhile
    key = (info.st_dev, info.st_ino)
    known = _names.get(key)
    if known is None or not known.exists():
        known = _names[key] = _name_of(info)
    return known


def _name_of(info: os.stat_result) -> Path:
    said = os.environ.get("PWD", "")
    with contextlib.suppress(OSError):
        if said.startswith("/") and os.path.samestat(os.stat(said), info):  # noqa: PTH116
            return Path(said)
    return Path.cwd()
