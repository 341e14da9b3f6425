"""The vassals that a directory holds."""

from __future__ import annotations

import dataclasses
import os
import stat
from pathlib import Path

from instar.uwsgi.emperor.settings import EXTENSIONS, NATIVE, EmperorSettings

#: uWSGI keeps names in 255 bytes.
_LONGEST_NAME = 254


@dataclasses.dataclass(frozen=True)
class Found:
    """A vassal's file. `stamp` changes whenever the file is written, touched or replaced."""

    name: str
    path: Path
    stamp: tuple[int, int]


def scan(settings: EmperorSettings) -> dict[str, Found]:
    """Every vassal by its file name. Raises OSError when the directory can't be read."""
    found = {}
    with os.scandir(settings.directory) as entries:
        for entry in entries:
            if not _is_vassal(entry.name, settings):
                continue
            try:
                status = entry.stat(follow_symlinks=not settings.nofollow)
            except OSError:  # removed meanwhile, or a link that leads nowhere
                continue
            if stat.S_ISREG(status.st_mode) or (settings.nofollow and stat.S_ISLNK(status.st_mode)):
                stamp = (status.st_mtime_ns, status.st_ino)
                found[entry.name] = Found(entry.name, settings.directory / entry.name, stamp)
    return dict(sorted(found.items()))


def _is_vassal(name: str, settings: EmperorSettings) -> bool:
    extensions = (*EXTENSIONS, NATIVE, *settings.extra_extensions)
    # A name that begins with a dot is an editor's or a deploy tool's: uWSGI would take it.
    return name.endswith(extensions) and len(os.fsencode(name)) <= _LONGEST_NAME and not name.startswith(".")
