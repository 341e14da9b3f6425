"""Starts processes: fork(2) straight into a cgroup, and names for people.

To move a process into a cgroup afterwards makes the kernel wait until every processor has been through its scheduler,
and every fork of the host with it: 10 ms and more were measured. A child that is born in the cgroup costs nothing.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import signal
import struct
from pathlib import Path
from typing import Final

from instar.handlers.tree import ProcessGroup, own_group

#: clone(2); the number is the same on every architecture that Python runs on, but alpha.
_SYS_CLONE3: Final = 435
_CLONE_INTO_CGROUP: Final = 0x200000000
#: `struct clone_args` up to `cgroup`: eleven 64-bit numbers.
_CLONE_ARGS: Final = "=11Q"
#: PyDLL: the call must keep the interpreter's lock, which the child has then as well.
_syscall: Final = ctypes.PyDLL(None, use_errno=True).syscall
_syscall.restype = ctypes.c_long
_syscall.argtypes = [ctypes.c_long, ctypes.c_char_p, ctypes.c_size_t]
_PR_SET_NAME: Final = 15
_prctl: Final = ctypes.PyDLL(None, use_errno=True).prctl
_prctl.argtypes = [ctypes.c_int, ctypes.c_char_p, ctypes.c_ulong, ctypes.c_ulong, ctypes.c_ulong]


def set_name(name: str) -> None:
    """What ps(1) and top(1) call this process; at most 15 bytes (prctl(2), PR_SET_NAME)."""
    _prctl(_PR_SET_NAME, name.encode(), 0, 0, 0)


class Groups:
    """Makes cgroups beside the process that made this object. Found out once: it costs more than a fork."""

    def __init__(self) -> None:
        self._parent: Path | None = own_group()
        trial = ProcessGroup.create(f"instar-trial-{os.getpid()}", self._parent) if self._parent else None
        if trial is None:
            self._parent = None
        else:
            trial.remove()

    def create(self, name: str) -> ProcessGroup | None:
        """A new one; None where none can be made."""
        return ProcessGroup.create(name, self._parent) if self._parent else None


def fork_into(group: ProcessGroup | None) -> int:
    """fork(2), with the child in the group. Only for a process without other threads whose child is about to exec.

    Raises OSError.
    """
    if group is not None:
        with contextlib.suppress(OSError):
            return _clone_into(group.folder)
    pid = os.fork()
    if pid == 0 and group is not None:
        group.enter()
    return pid


def _clone_into(folder: Path) -> int:
    fd = os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        args = struct.pack(_CLONE_ARGS, _CLONE_INTO_CGROUP, 0, 0, 0, signal.SIGCHLD, 0, 0, 0, 0, 0, fd)
        pid = int(_syscall(_SYS_CLONE3, args, len(args)))
    finally:
        os.close(fd)
    if pid < 0:
        error = ctypes.get_errno() or errno.ENOSYS
        raise OSError(error, os.strerror(error))
    return pid
