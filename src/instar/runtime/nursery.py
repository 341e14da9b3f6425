"""Forks the zygote's children cleanly and hears of their end."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import selectors
import signal
import sys
import traceback
from collections.abc import Callable
from typing import NoReturn

from instar.runtime.worker import leave
from instar.system import System

#: Signals that must not reach a child before it has reset their handlers.
_BLOCKED = {signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2}


@dataclasses.dataclass(frozen=True)
class Child:
    """A living child. The nursery owns `pidfd`."""

    pid: int
    pidfd: int
    #: In clock ticks since boot; with the pid it names the process for good.
    start_time: int
    forked_at: float


class Nursery:
    """Owner of the pidfds. Only ever reaps its own children: the application may have started others."""

    def __init__(self, system: System, selector: selectors.BaseSelector) -> None:
        self._system = system
        self._selector = selector
        self._children: dict[int, Child] = {}
        self._closers: list[Callable[[], None]] = []

    def in_child(self, close: Callable[[], None]) -> None:
        """Register what each child does first: closing its copies of what only the zygote uses."""
        self._closers.append(close)

    def fork(self, body: Callable[[], int], on_exit: Callable[[Child, int], None]) -> Child:
        """Fork; the child runs `body` and ends with its result. `on_exit` gets the exit status, in the zygote."""
        sys.stdout.flush()
        sys.stderr.flush()
        # No handler of ours may run in the child, which would act on the zygote's behalf.
        signal.pthread_sigmask(signal.SIG_BLOCK, _BLOCKED)
        pid = self._system.fork()
        if pid == 0:
            self._run(body)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _BLOCKED)
        child = Child(pid, self._system.pidfd_open(pid), self._system.start_time(pid), self._system.monotonic())
        self._children[pid] = child
        self._selector.register(child.pidfd, selectors.EVENT_READ, lambda _mask: self._on_end(child, on_exit))
        return child

    def signal(self, child: Child, sig: int) -> None:
        """Signal a child; nothing happens when it is gone."""
        self._system.pidfd_signal(child.pidfd, sig)

    def __len__(self) -> int:
        return len(self._children)

    def _on_end(self, child: Child, on_exit: Callable[[Child, int], None]) -> None:
        status = self._system.reap(child.pid)
        if status is None:
            return
        del self._children[child.pid]
        self._selector.unregister(child.pidfd)
        try:
            on_exit(child, status)
        finally:
            os.close(child.pidfd)

    def _run(self, body: Callable[[], int]) -> NoReturn:
        code = 1
        try:
            signal.set_wakeup_fd(-1)
            for sig in _BLOCKED:
                signal.signal(sig, signal.SIG_DFL)
            self._selector.close()
            for close in self._closers:
                close()
            for child in self._children.values():
                os.close(child.pidfd)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, _BLOCKED)
            code = body()
        except BaseException:
            with contextlib.suppress(BaseException):
                traceback.print_exc()
        leave(code)
