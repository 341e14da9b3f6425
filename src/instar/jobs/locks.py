"""Locks that say whether a process lives, and that somebody may ask about without getting in the way.

Open file description locks (fcntl_locking(2)): like flock(2) they belong to the open file, so they pass to forked
children and end with the last descriptor; unlike flock, they can be tested without taking them. A test that takes the
lock for a moment would turn away the process that wants it just then.
"""

from __future__ import annotations

import fcntl
import os
import struct
from pathlib import Path
from typing import Final

#: `struct flock`: type, whence, start, length, pid (0 to set, -1 in answers), padding.
_FLOCK: Final = "hhqqi4x"


def hold(path: Path, byte: int, *, shared: bool = False) -> int | None:
    """A descriptor (close-on-exec) with a lock on one byte of the file, which is created; None if somebody has it."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    kind = fcntl.F_RDLCK if shared else fcntl.F_WRLCK
    try:
        fcntl.fcntl(fd, fcntl.F_OFD_SETLK, struct.pack(_FLOCK, kind, os.SEEK_SET, byte, 1, 0))
    except BlockingIOError:
        os.close(fd)
        return None
    except BaseException:
        os.close(fd)
        raise
    return fd


def held(path: Path, byte: int) -> bool:
    """Whether some process holds the byte's lock, exclusive or shared. A file that is missing is locked by nobody."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        return False
    try:
        answer = fcntl.fcntl(fd, fcntl.F_OFD_GETLK, struct.pack(_FLOCK, fcntl.F_WRLCK, os.SEEK_SET, byte, 1, 0))
    finally:
        os.close(fd)
    return bool(struct.unpack(_FLOCK, answer)[0] != fcntl.F_UNLCK)


def holders(path: Path) -> list[int]:
    """Pids that have the file open with such a lock on any byte, as far as we may look (proc_pid_fdinfo(5))."""
    try:
        inode = f":{path.stat().st_ino} "
    except OSError:
        return []
    return [pid for pid in map(int, filter(str.isdigit, os.listdir("/proc"))) if _has_lock(pid, inode)]


def _has_lock(pid: int, inode: str) -> bool:
    try:
        fds = os.listdir(f"/proc/{pid}/fdinfo")
    except OSError:
        return False
    for fd in fds:
        try:
            lines = Path(f"/proc/{pid}/fdinfo/{fd}").read_text().splitlines()
        except OSError:
            continue
        if any(line.startswith("lock:") and "OFDLCK" in line and inode in line for line in lines):
            return True
    return False
