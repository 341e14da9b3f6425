"""Files in folders that the application's user owns, handled by a supervisor that may be root.

That user can put a symbolic link in place of anything there, between any two of our steps. So each part of a path is
opened by itself, without following links (open(2), O_NOFOLLOW), and changed through its descriptor.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Sequence
from pathlib import Path

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
# O_NONBLOCK: a FIFO must not make us wait for a reader.
_FILE = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


def open_folder(base: Path, parts: Sequence[str], uid: int | None = None, gid: int | None = None) -> int:
    """A descriptor of the folder `parts` below `base`; missing ones are made (0700), and given to `uid` and `gid`.

    `base` is trusted: nobody else can replace it. Raises OSError, also for a symbolic link.
    """
    fd = os.open(base, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    for name in parts:
        try:
            inner = _enter(fd, name)
        finally:
            os.close(fd)
        fd = inner
        give(fd, uid, gid)
    return fd


def open_append(base: Path, parts: Sequence[str]) -> int:
    """A descriptor that appends to the file `parts` below `base`. Raises OSError, also for what is no plain file of
    one name: whoever put it there would make us write somewhere else."""
    folder = open_folder(base, parts[:-1])
    try:
        fd = os.open(parts[-1], _FILE, 0o640, dir_fd=folder)
    finally:
        os.close(folder)
    status = os.fstat(fd)
    if not stat.S_ISREG(status.st_mode) or status.st_nlink > 1:
        os.close(fd)
        raise PermissionError(errno.EPERM, "it is a link or a special file", "/".join(parts))
    os.set_blocking(fd, True)
    return fd


def settle_socket(path: Path, mode: int | None, owner: tuple[int, int] | None = None) -> None:
    """Mode and owner (-1: as it is) of a socket that we have just bound, in a folder that may be somebody else's.

    Nobody can connect before listen(2): they are right from the first moment. Raises OSError when something else has
    its place.
    """
    fd = os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        status = os.fstat(fd)
        if not stat.S_ISSOCK(status.st_mode) or status.st_nlink > 1 or status.st_uid != os.geteuid():
            raise PermissionError(errno.EPERM, "something else has taken its place", str(path))
        # The system calls for descriptors refuse one of O_PATH; this way leads to the very same file.
        if mode is not None:
            Path(f"/proc/self/fd/{fd}").chmod(mode)
        if owner is not None:
            os.chown(f"/proc/self/fd/{fd}", *owner)
    finally:
        os.close(fd)


def give(fd: int, uid: int | None, gid: int | None) -> None:
    """Give what we have made, and hold open, to another user (None: as it is)."""
    if (uid is not None or gid is not None) and os.fstat(fd).st_uid == os.geteuid():
        os.fchown(fd, -1 if uid is None else uid, -1 if gid is None else gid)


def _enter(folder: int, name: str) -> int:
    with contextlib.suppress(FileExistsError):
        os.mkdir(name, 0o700, dir_fd=folder)
    return os.open(name, _FOLDER, dir_fd=folder)
