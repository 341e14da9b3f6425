"""Real processes that hold names, told what to do through pipes: nothing here waits for a time to pass."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from instar.handlers.process import HandlerProcess

#: Only a hang takes as long as this; no test depends on how quick anything is.
LIMIT = 60.0


class Child:
    """A forked child. `say` in it and `hear` here are lines of JSON; `tell` here and `await_order` there bytes."""

    def __init__(self, body: Callable[[Child], int | None]) -> None:
        self._reader, self._writer = os.pipe()
        self._orders, self._order_writer = os.pipe()
        self.arm_read, self.arm_write = os.pipe()
        self.release_read, self.release_write = os.pipe()
        self._buffer = b""
        self._unheard: list[dict[str, Any]] = []
        self.status: int | None = None
        sys.stdout.flush()
        self.pid = os.fork()
        if self.pid == 0:
            self._run(body)
        os.close(self._writer)
        os.close(self._orders)
        os.close(self.arm_read)
        os.close(self.release_read)

    def _run(self, body: Callable[[Child], int | None]) -> None:
        code = 70
        try:
            os.setpgid(0, 0)
            for fd in (self._order_writer, self.arm_write, self.release_write, self._reader):
                os.close(fd)
            code = body(self) or 0
        except BaseException as error:
            traceback.print_exc()
            with contextlib.suppress(OSError):
                self.say(error=repr(error))
        finally:
            os._exit(code)

    # In the child.

    def say(self, **message: Any) -> None:
        os.write(self._writer, json.dumps(message).encode() + b"\n")

    def await_order(self) -> bytes:
        return os.read(self._orders, 1)

    # In the test.

    def hear(self, key: str = "") -> dict[str, Any]:
        """The next message that has the key. Threads of the child may speak in any order."""
        for message in self._unheard:
            if key in message or not key:
                self._unheard.remove(message)
                return message
        while key not in (message := self._next()) and key:
            self._unheard.append(message)
        return message

    def _next(self) -> dict[str, Any]:
        while b"\n" not in self._buffer:
            ready, _, _ = select.select([self._reader], [], [], LIMIT)
            assert ready, "the child says nothing"
            data = os.read(self._reader, 4096)
            if not data:
                raise EOFError("the child has ended")
            self._buffer += data
        line, _, self._buffer = self._buffer.partition(b"\n")
        return json.loads(line)

    def silent(self) -> bool:
        """Whether nothing has been said that was not heard. Proves nothing about the future."""
        return not self._unheard and b"\n" not in self._buffer and not select.select([self._reader], [], [], 0.05)[0]

    def tell(self, order: bytes = b"x") -> None:
        os.write(self._order_writer, order)

    def arm(self) -> None:
        os.write(self.arm_write, b"x")

    def release(self) -> None:
        os.write(self.release_write, b"x")

    def kill(self, sig: int = signal.SIGKILL) -> None:
        os.kill(self.pid, sig)

    def stop(self) -> None:
        self.kill(signal.SIGSTOP)
        os.waitpid(self.pid, os.WUNTRACED)

    def wait(self) -> int:
        if self.status is None:
            self.status = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        return self.status

    def close(self) -> None:
        if self.status is None:
            self.kill()
            self.wait()
        for fd in (self._reader, self._order_writer, self.arm_write, self.release_write):
            with contextlib.suppress(OSError):
                os.close(fd)


def process_of(child: Child, lock_path: Path, **changes: Any) -> HandlerProcess:
    """The handler process of a child, which says what it tells."""
    arguments: dict[str, Any] = {
        "name": "main.work.1",
        "pool": "work",
        "index": 1,
        "tags": ("fast",),
        "generation": 3,
        "lock_path": lock_path,
        "arm_fd": child.arm_read,
        "release_fd": child.release_read,
        "tell": lambda message: child.say(**message),
    }
    return HandlerProcess(**(arguments | changes))


def wait_for(condition: Callable[[], bool]) -> None:
    """For conditions that nobody reports."""
    end = time.monotonic() + LIMIT
    while not condition():
        assert time.monotonic() < end, "it never happened"
        time.sleep(0.01)


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False
