"""What makes a forked process a handler: it waits until it may have its name, takes it, and hears when to leave."""

from __future__ import annotations

import contextlib
import logging
import os
import select
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from instar.handlers.errors import Fenced, HandlerError, LockError, NotActiveError
from instar.handlers.latch import Latch
from instar.handlers.lease import Lease
from instar.handlers.states import HandlerEvent, HandlerState, next_state

#: Seconds between two looks at whether the lock file is still the locked one.
LOOK = 1.0

logger = logging.getLogger("instar.handlers")


class HandlerProcess:
    """One handler process, seen from inside. Made in the forked child; `start` (or `install`) begins to listen.

    `arm_fd` is readable (a byte or end of file) once the process may wait for its name, `release_fd` once it has to
    leave; neither is read from here. `tell` gets `{"event": "standby"}`, `{"event": "active", "epoch": N}`,
    `{"event": "lost", "error": TEXT}` and `{"event": "failed", "error": TEXT}`, from any thread.
    """

    def __init__(
        self,
        *,
        name: str,
        pool: str,
        index: int,
        tags: tuple[str, ...] = (),
        generation: int,
        lock_path: Path,
        arm_fd: int,
        release_fd: int,
        tell: Callable[[dict[str, Any]], object],
        any_filesystem: bool = False,
    ) -> None:
        self.name = name
        self.pool = pool
        self.index = index
        self.tags = tags
        self.generation = generation
        self.arm_fd = arm_fd
        self.release_fd = release_fd
        self.lock_path = lock_path
        self.lease = Lease(name, lock_path, any_filesystem=any_filesystem)
        self.releasing = Latch()
        self.pid = os.getpid()
        #: Set when it is clear whether the name will ever be ours: taken, failed, or asked to leave before.
        self._decided = Latch()
        self._state = HandlerState.STANDBY
        self._ended = threading.Event()
        self._guard = threading.RLock()
        self._taker: threading.Thread | None = None
        self._watcher: threading.Thread | None = None
        self._error: HandlerError | None = None
        self._tell = tell

    @property
    def state(self) -> HandlerState:
        """Where the process stands. A forked child of a handler is none: for it, the handler is gone."""
        return self._state if os.getpid() == self.pid else HandlerState.GONE

    @property
    def active(self) -> bool:
        """Whether this process is the holder; also while it is releasing, until it has ended or lost the name."""
        return self.state in (HandlerState.ACTIVE, HandlerState.RELEASING) and self.lease.holds()

    def start(self) -> None:
        """Listen for the request to leave, in a daemon thread."""
        self._watcher = threading.Thread(target=self._watch, name="instar-release", daemon=True)
        self._watcher.start()

    def wait_active(self, timeout: float | None = None) -> bool:
        """Say that booting is over, and wait until this process holds its name; any thread may.

        False: the time is over (the name may come later), or the process has to leave without having had the name.
        Raises HandlerError if the name can't be taken.
        """
        self.request()
        self._decided.wait(timeout)
        return self._outcome()

    async def wait_active_async(self, timeout: float | None = None) -> bool:
        """`wait_active` for an event loop."""
        self.request()
        await self._decided.wait_async(timeout)
        return self._outcome()

    def request(self) -> None:
        """Begin to wait for the name, in a thread of its own: flock(2) can be neither timed nor woken."""
        if os.getpid() != self.pid:
            raise NotActiveError(f"cannot wait for {self.name}: this is a forked child of the handler")
        with self._guard:
            if self._taker is not None:
                return
            self._taker = threading.Thread(target=self._take, name="instar-take", daemon=True)
        self.say({"event": "standby"})
        self._taker.start()

    def take_here(self) -> bool:
        """`wait_active` without a thread, for a process that does nothing else (a keeper)."""
        self.say({"event": "standby"})
        self._take()
        return self._outcome()

    def release(self) -> None:
        """What happens when the process is asked to leave: `releasing` is set, its callbacks run."""
        self._move(HandlerEvent.RELEASE)

    def lose(self, error: HandlerError) -> None:
        """The name is lost for good: say so, and leave."""
        self.lease.lose(str(error))
        if self.state is not HandlerState.GONE and self._move(HandlerEvent.LOST):
            logger.error("%s", error)
            self.say({"event": "lost", "error": str(error)})

    def hand_on(self) -> bool:
        """The last act of the process, right before os._exit: free the name without waiting for its memory to be freed.

        The kernel frees memory before files, which takes long for a large process. Only when no thread is left that
        could still write under the name: the caller's and our own. Otherwise False, and the kernel does it.
        """
        own = {
            threading.get_native_id(),
            *(each.native_id for each in (self._taker, self._watcher) if each and each.is_alive()),
        }
        if self.state is HandlerState.GONE or any(int(task) not in own for task in os.listdir("/proc/self/task")):
            return False
        with self._guard:
            self._state = next_state(self._state, HandlerEvent.ENDED)
        self.lease.close()
        return True

    def end(self) -> None:
        """What the end of a process does, for a fake one in a test. `release_fd` must be readable."""
        with self._guard:
            self._state = next_state(self._state, HandlerEvent.ENDED)
        self._ended.set()
        self.lease.close()
        for thread in (self._taker, self._watcher):
            if thread is not None:
                thread.join()

    def say(self, message: dict[str, Any]) -> None:
        """Tell the zygote. Its death must not take the handler along."""
        with contextlib.suppress(OSError):
            self._tell(message)

    def _outcome(self) -> bool:
        if self._error:
            raise self._error
        return self.active

    def _take(self) -> None:
        try:
            if self._await_arming() and self.lease.acquire():
                self._begin()
            else:
                self.release()
        except (HandlerError, OSError) as error:
            self._fail(error)

    def _await_arming(self) -> bool:
        poll = select.poll()
        poll.register(self.arm_fd, select.POLLIN)
        poll.register(self.release_fd, select.POLLIN)
        # Both are readable when the zygote has died: a standby leaves then.
        return self.release_fd not in {fd for fd, _ in poll.poll()}

    def _begin(self) -> None:
        """The lock is ours. Only the epoch makes the process the holder: one asked to leave passes the lock on."""
        with self._guard:
            if self._state is not HandlerState.STANDBY or _readable(self.release_fd):
                self.lease.close()
                self.release()
                return
            epoch = self.lease.begin()
            self._state = next_state(self._state, HandlerEvent.TAKEN)
        self._decided.set()
        self.say({"event": "active", "epoch": epoch})
        with contextlib.suppress(OSError, LockError):
            self.lease.settle()

    def _fail(self, error: Exception) -> None:
        self.lease.close()
        self._error = error if isinstance(error, HandlerError) else HandlerError(f"cannot take {self.name}: {error}")
        self.say({"event": "failed", "error": str(self._error)})
        self._decided.set()

    def check(self) -> bool:
        """Look whether the lock file is still the locked one; without it the name is lost. False then."""
        if self._state not in (HandlerState.ACTIVE, HandlerState.RELEASING):
            return True
        try:
            self.lease.require()
        except NotActiveError:
            return True
        except Fenced as error:
            self.lose(error)
            return False
        return True

    def _watch(self) -> None:
        poll = select.poll()
        poll.register(self.release_fd, select.POLLIN)
        while not poll.poll(LOOK * 1000):
            self.check()
        self.release()
        # A handler that takes long to leave can still lose its name.
        while self._state is HandlerState.RELEASING and self.check():
            self._ended.wait(LOOK)

    def _move(self, event: HandlerEvent) -> bool:
        """Whether the state has changed."""
        with self._guard:
            if self._state is HandlerState.GONE:
                return False
            before, self._state = self._state, next_state(self._state, event)
            changed = before is not self._state
        if self._state is HandlerState.RELEASING:
            self._decided.set()
            self.releasing.set()
        return changed


def _readable(fd: int) -> bool:
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    return bool(poll.poll(0))
