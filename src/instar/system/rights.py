"""What a process may do: user, groups, umask, and whether a program may give it more."""

from __future__ import annotations

import ctypes
import dataclasses
import os
from collections.abc import Callable
from typing import TypeVar

from instar.system.apart import in_a_thread

_T = TypeVar("_T")

#: prctl(2).
_PR_SET_NO_NEW_PRIVS = 38
_PR_CAP_AMBIENT = 47
_PR_CAP_AMBIENT_CLEAR_ALL = 4


@dataclasses.dataclass(frozen=True)
class Rights:
    """Who a program runs as; None: like us."""

    uid: int | None = None
    gid: int | None = None
    groups: tuple[int, ...] | None = None
    umask: int | None = None
    #: Neither setuid programs nor file capabilities give it more (prctl(2), PR_SET_NO_NEW_PRIVS), and capabilities
    #: that a service manager gave to us (capabilities(7), ambient) are not passed on.
    no_new_privs: bool = False


def bounded(start: Callable[[], _T]) -> _T:
    """Call `start`; what it starts can never gain privileges. We stay as we are. Raises what `start` raises.

    Both attributes belong to a thread, and a process inherits those of the thread that started it. So no code has to
    run between fork and exec, where another thread's lock could be held for ever.
    """

    def run() -> _T:
        _give_up()
        return start()

    return in_a_thread(run, "instar-start")


def _give_up() -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0):
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))
    # Kernels without ambient capabilities have none to pass on.
    libc.prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0)
