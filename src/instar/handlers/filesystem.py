"""Is this a file system whose flock() can be trusted?"""

from __future__ import annotations

import ctypes
import os
from pathlib import Path
from typing import Final

#: Magic numbers of statfs(2) where flock is emulated by a server, which may give the lock to somebody else while
#: the holder runs on, or that may not know other hosts' locks at all.
UNSAFE: Final = {
    0x6969: "NFS",
    0xFF534D42: "CIFS",
    0xFE534D42: "SMB2",
    0x517B: "SMB",
    0x65735546: "FUSE",
    0x01021997: "9p",
    0x0BD00BD0: "Lustre",
    0x00C36400: "Ceph",
    0x5346414F: "AFS",
    0x6B414653: "AFS",
    0x47504653: "GPFS",
    0x786F4256: "VirtualBox shared folder",
}
#: Larger than `struct statfs` of any architecture.
_STATFS_SIZE: Final = 512


def filesystem_type(path: Path) -> int:
    """`f_type` of the file system that holds `path` (statfs(2)). Raises OSError."""
    buffer = (ctypes.c_ulong * (_STATFS_SIZE // ctypes.sizeof(ctypes.c_ulong)))()
    if ctypes.CDLL(None, use_errno=True).statfs(os.fsencode(path), ctypes.byref(buffer)):
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error), str(path))
    # The first member; 64 bits wide with the sign extended on some systems, but the numbers have 32.
    return buffer[0] & 0xFFFFFFFF


def unsafe_filesystem(path: Path) -> str | None:
    """Name of the file system of `path` if locks on it can't be trusted, else None."""
    return UNSAFE.get(filesystem_type(path))
