"""Give the disk space of consumed output back while its writers go on appending."""

from __future__ import annotations

import ctypes
import errno
import os

# linux/falloc.h: the file keeps its length, so that O_APPEND writers notice nothing.
_KEEP_SIZE = 0x01
_PUNCH_HOLE = 0x02
#: Holes are made of whole file system blocks.
BLOCK = 4096
_UNSUPPORTED = {errno.EOPNOTSUPP, errno.ENOSYS, errno.EPERM, errno.EBADF}

_libc = ctypes.CDLL(None, use_errno=True)
_fallocate = getattr(_libc, "fallocate64", None) or _libc.fallocate
_fallocate.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64]


def punch(fd: int, start: int, end: int) -> bool:
    """Free the whole blocks of `fd` between two offsets, in bytes (fallocate(2)).

    Returns False where the file system can't do it or the descriptor isn't writable: the file then only
    grows until its generation ends. Raises OSError for anything else.
    """
    end -= end % BLOCK
    start -= start % BLOCK
    while end > start:
        if _fallocate(fd, _PUNCH_HOLE | _KEEP_SIZE, start, end - start) == 0:
            return True
        code = ctypes.get_errno()
        if code in _UNSUPPORTED:
            return False
        if code != errno.EINTR:
            raise OSError(code, os.strerror(code))
    return True


def skip_hole(fd: int, offset: int) -> int:
    """The first offset from `offset` on that isn't in a hole: the length of the file if all the rest is one."""
    # The length first: what a writer appends while we look is behind it, and must not be skipped.
    length = os.fstat(fd).st_size
    if offset >= length:
        return offset
    try:
        return os.lseek(fd, offset, os.SEEK_DATA)
    except OSError as error:
        return length if error.errno == errno.ENXIO else offset
