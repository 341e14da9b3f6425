"""A service manager as systemd is one: a notification socket, a descriptor store, sockets handed over at the start."""

from __future__ import annotations

import json
import select
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from harness.instance import INSTAR, Instance
from harness.waiting import wait_for
from instar.system.notify import Notice, close_all, notice_socket, receive

#: Becomes instar with descriptors from 3 on, as systemd does it: argument 1 says which to move where.
BECOME = """
import fcntl, json, os, sys
fds, names = json.loads(sys.argv[1])
# Out of the way first: one may stand where another has to go.
high = [fcntl.fcntl(fd, fcntl.F_DUPFD, 200) for fd in fds]
os.closerange(3, 200)
for number, fd in enumerate(high):
    os.dup2(fd, 3 + number, inheritable=True)
    os.close(fd)
if fds:
    os.environ |= {"LISTEN_FDS": str(len(fds)), "LISTEN_PID": str(os.getpid()), "LISTEN_FDNAMES": ":".join(names)}
if os.environ.get("WATCHDOG_USEC"):
    os.environ["WATCHDOG_PID"] = str(os.getpid())
os.execv(sys.argv[2], sys.argv[2:])
"""


class Manager:
    """Owner of the socket and of the stored descriptors."""

    def __init__(self, folder: Path) -> None:
        self._become = folder / "become.py"
        self._become.write_text(BECOME)
        self.path = folder / "notify"
        self._sock = notice_socket(self.path)
        #: What was said, with the time of its arrival.
        self.told: list[tuple[float, Notice]] = []
        self.store: dict[str, tuple[int, ...]] = {}
        self._closed = threading.Event()
        # Its queue holds ten notifications (net.unix.max_dgram_qlen): whoever does not read loses some.
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def catch_up(self) -> list[dict[str, str]]:
        """Everything said until now."""
        return [notice.fields for _, notice in list(self.told)]

    def _read(self) -> None:
        while not self._closed.is_set():
            select.select([self._sock], [], [], 0.1)
            while (notice := receive(self._sock)) is not None:
                self._take(notice)

    def _take(self, notice: Notice) -> None:
        name = notice.fields.get("FDNAME", "stored")
        if notice.fields.get("FDSTOREREMOVE") == "1":
            close_all(self.store.pop(name, ()))
        elif notice.fields.get("FDSTORE") == "1":
            self.store[name] = self.store.get(name, ()) + notice.fds
        else:
            notice.close()
        self.told.append((time.monotonic(), notice))

    def wait_for(self, field: str, value: str | None = None, count: int = 1, limit: float = 20.0) -> None:
        """Wait until a field (with that value) was said so often."""

        def said() -> bool:
            fields = [item for item in self.catch_up() if field in item and value in (None, item[field])]
            return len(fields) >= count

        wait_for(f"{field}={value or '…'}", said, limit)

    def program(self, activated: Sequence[tuple[str, int]] = ()) -> list[str]:
        """What starts instar: with the sockets of units, and the stored ones behind them, in no useful order."""
        handed = self._handed(activated)
        what = json.dumps([[fd for _, fd in handed], [name for name, _ in handed]])
        return [sys.executable, str(self._become), what, str(INSTAR)]

    def start(self, instance: Instance, activated: Sequence[tuple[str, int]] = ()) -> None:
        """Start instar with all that this manager has for it."""
        fds = [fd for _, fd in self._handed(activated)]
        instance.start(program=self.program(activated), pass_fds=fds)

    def _handed(self, activated: Sequence[tuple[str, int]]) -> list[tuple[str, int]]:
        stored = [(name, fd) for name, fds in self.store.items() for fd in fds]
        return [*activated, *reversed(stored)]

    def close(self) -> None:
        """Forget everything."""
        self._closed.set()
        self._thread.join()
        self._sock.close()
        for fds in self.store.values():
            close_all(fds)
