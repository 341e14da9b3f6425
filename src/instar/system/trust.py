"""Folders at places that the configuration names: made with no more rights than whoever owns the way there has.

If somebody else than root can change where a path leads, root must not make or give away what is at its end.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import stat
from collections.abc import Callable
from pathlib import Path

from instar.system.apart import in_a_thread

_PLACE = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
#: As many as the kernel follows (path_resolution(7)).
_MOST_LINKS = 40


def make_folder(path: Path, uid: int | None, gid: int | None) -> None:
    """Make a folder for a user, with the parents that are missing; what is there stays as it is.

    As that user, where it may; else as us, but only where nobody else can change where the path leads; parents may
    then be passed through by others. Raises OSError.
    """
    if uid is None and gid is None:
        path.parent.mkdir(mode=0o711, parents=True, exist_ok=True)
        path.mkdir(mode=0o700, exist_ok=True)
        return
    if path.is_dir():
        return
    try:
        as_user(uid, gid, lambda: path.mkdir(mode=0o700, parents=True, exist_ok=True))
    except PermissionError:
        os.close(_walk(path, lambda fd: _give(fd, uid, gid)))


def check(path: Path) -> None:
    """Raises PermissionError if somebody besides root and us can change where a path leads."""
    os.close(_walk(path, None))


def as_user(uid: int | None, gid: int | None, act: Callable[[], object]) -> None:
    """Call `act` with the file system rights of another user (setfsuid(2)). Raises what it raises.

    They belong to a thread, and end with it; for any other uid than 0 the kernel takes root's powers over files away
    as well (capabilities(7)). Our supplementary groups stay.
    """

    def run() -> object:
        libc = ctypes.CDLL(None)
        for call, number in ((libc.setfsgid, gid), (libc.setfsuid, uid)):
            # It tells no failure: asking again shows what is in force.
            if number is not None and (call(number), call(-1))[1] != number:
                raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))
        return act()

    in_a_thread(run, "instar-as-user")


def _walk(path: Path, made: Callable[[int], object] | None) -> int:
    """A descriptor of a folder, reached through nothing but what root or we own.

    `made`: make what is missing, and call this for the last part if it was; None: nothing may be missing.
    """
    todo = list(reversed(path.absolute().parts[1:]))
    fd, links = os.open("/", _PLACE | os.O_DIRECTORY), 0
    try:
        while todo:
            name = todo.pop()
            _check_folder(fd, path)
            new = made is not None and _make(fd, name, 0o711 if todo else 0o700)
            inner = os.open(name, _PLACE, dir_fd=fd)
            try:
                status = os.fstat(inner)
                if status.st_uid not in (0, os.geteuid()) and todo:
                    raise _untrusted(path)
                if stat.S_ISLNK(status.st_mode):
                    links += 1
                    target = Path(os.readlink("", dir_fd=inner))
                    if status.st_uid not in (0, os.geteuid()) or links > _MOST_LINKS:
                        raise _untrusted(path)
                    todo += reversed(target.parts[1:] if target.is_absolute() else target.parts)
                    if target.is_absolute():
                        fd = _replace(fd, os.open("/", _PLACE | os.O_DIRECTORY))
                    continue
                if new and not todo and made is not None:
                    made(inner)
                fd, inner = inner, fd
            finally:
                os.close(inner)
        if made is None:
            _check_folder(fd, path)
        return fd
    except BaseException:
        os.close(fd)
        raise


def _replace(old: int, new: int) -> int:
    os.close(old)
    return new


def _make(folder: int, name: str, mode: int) -> bool:
    with contextlib.suppress(FileExistsError):
        os.mkdir(name, mode, dir_fd=folder)
        return True
    return False


def _check_folder(fd: int, path: Path) -> None:
    status = os.fstat(fd)
    if not stat.S_ISDIR(status.st_mode):
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(path))
    # In a sticky folder others can add entries, but replace only their own.
    writable = status.st_mode & stat.S_IWOTH or (status.st_mode & stat.S_IWGRP and status.st_gid != 0)
    if status.st_uid not in (0, os.geteuid()) or (writable and not status.st_mode & stat.S_ISVTX):
        raise _untrusted(path)


def _untrusted(path: Path) -> PermissionError:
    return PermissionError(errno.EPERM, "somebody else than root can change where this path leads", str(path))


def _give(fd: int, uid: int | None, gid: int | None) -> None:
    # fchown(2) refuses O_PATH descriptors; this way leads to the very same folder.
    os.chown(f"/proc/self/fd/{fd}", -1 if uid is None else uid, -1 if gid is None else gid)
