"""For the tests of applications: a handler without a supervisor.

    from instar.testing import fake_handler

    def test_report():
        with fake_handler(pool="reports") as fake:
            worker = threading.Thread(target=my_target)     # calls instar.current_handler().wait_active()
            worker.start()
            fake.activate()
            instar.send("reports", b"monthly")
            fake.release()                                  # `releasing` is set
            worker.join()

Everything behind it is real: the lock, the epoch and the fence, the queues.
"""

from __future__ import annotations

import contextlib
import os
import socket
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from instar.handlers import current, messages
from instar.handlers.current import Handler
from instar.handlers.messages import QueueEnds
from instar.handlers.process import HandlerProcess

__all__ = ["FakeHandler", "fake_handler"]


class FakeHandler:
    """What a supervisor and its zygote would do, by hand. Made by `fake_handler`."""

    def __init__(self, handler: Handler, process: HandlerProcess, arm: int, release: int) -> None:
        #: What `instar.current_handler()` gives while the context is open.
        self.handler = handler
        #: What the handler has reported: `{"event": "standby"}` and so on.
        self.events: list[dict[str, Any]] = []
        self._process = process
        self._arm = arm
        self._release = release

    def activate(self) -> int:
        """Let the handler have its name, and wait until it has; returns its epoch. Raises HandlerError."""
        os.write(self._arm, b"x")
        self._process.wait_active()
        return self.handler.epoch

    def release(self) -> None:
        """Ask the handler to leave, and wait until `releasing` is set and the callbacks of `on_release` have run."""
        heard = threading.Event()
        # Callbacks run in the order in which they were registered.
        self.handler.on_release(heard.set)
        os.write(self._release, b"x")
        heard.wait()

    def lose(self) -> None:
        """Take the name away, as if somebody had removed the state directory: from now on `fence` raises Fenced."""
        self._process.lease.lock.path.unlink()


@contextlib.contextmanager
def fake_handler(
    name: str = "",
    pool: str = "test",
    index: int = 1,
    tags: tuple[str, ...] = (),
    *,
    generation: int = 1,
    state_dir: Path | None = None,
) -> Iterator[FakeHandler]:
    """Make this process a handler in standby while the context is open.

    `name` is `main.POOL.INDEX` if left out. Epochs are kept in `state_dir`: a second fake of the same name there is
    the successor of the first; without it, in a temporary directory.
    """
    name = name or f"main.{pool}.{index}"
    with contextlib.ExitStack() as stack:
        folder = state_dir or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="instar-fake-")))
        stack.enter_context(_queues(name, pool))
        (arm_read, arm_write), (release_read, release_write) = (
            stack.enter_context(_pipe()),
            stack.enter_context(_pipe()),
        )
        events: list[dict[str, Any]] = []
        process = HandlerProcess(
            name=name,
            pool=pool,
            index=index,
            tags=tags,
            generation=generation,
            lock_path=folder / f"{name}.lock",
            arm_fd=arm_read,
            release_fd=release_read,
            tell=events.append,
            any_filesystem=True,
        )
        fake = FakeHandler(current.install(process), process, arm_write, release_write)
        fake.events = events
        try:
            yield fake
        finally:
            fake.release()
            process.end()
            current.replace(None)


@contextlib.contextmanager
def _pipe() -> Iterator[tuple[int, int]]:
    ends = os.pipe()
    try:
        yield ends
    finally:
        for fd in ends:
            os.close(fd)


@contextlib.contextmanager
def _queues(name: str, pool: str) -> Iterator[None]:
    """Queues of the handler and its pool; the process's own, if it has any, are put aside meanwhile."""
    pairs = {queue: socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM) for queue in {name, pool}}
    module: Any = messages
    before, module._mailbox = module._mailbox, None
    try:
        messages.install_queues(
            {queue: QueueEnds(send.fileno(), receive.fileno()) for queue, (send, receive) in pairs.items()}, pool, name
        )
        yield
    finally:
        if module._mailbox is not None:
            # The descriptors are the pairs'.
            module._mailbox.detach()
        module._mailbox = before
        for pair in pairs.values():
            for end in pair:
                end.close()
