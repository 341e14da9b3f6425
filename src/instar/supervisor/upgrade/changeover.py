"""Stands between two versions of the supervisor, so that the new one may fail in any way.

Run by path, from the private copy of the old version; the standard library is all it needs. Two roles:

`PYTHON changeover.py PROGRAM ARGUMENT…` is the process itself after its exec: it runs the new version, under the new
version's interpreter. If that raises, leaves, or isn't ready in time, it executes the old version: the pid stays.

`PYTHON changeover.py --guard PIDFD NEWS HELLO` is the guardian, under the old version's interpreter. If the process
dies, or hangs where no signal handler runs, the guardian ends it and becomes the old version: the pid changes.

What both have to know is in the environment variable INSTAR_UPGRADE (`inheritance.py`).
"""

from __future__ import annotations

import contextlib
import json
import os
import runpy
import select
import signal
import socket
import sys
from pathlib import Path
from typing import Any

VARIABLE = "INSTAR_UPGRADE"
#: What a supervisor handles: blocked while there may be nobody who does.
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGCHLD)
#: News for the guardian, in lines: the supervisor is ready; it goes back, with the reason behind the letter.
READY, BACK = b"R\n", b"B"
#: The guardian gives the process so long beyond its limit to go back by itself (seconds).
MARGIN = 2.0
#: For the old version, which has shown that it can start; the machine may be slow.
BACK_LIMIT = 120.0


class Order:
    """What is to be handed on. Owner of copies of the descriptors: the new version may close its own."""

    def __init__(self, raw: dict[str, Any]) -> None:
        self.raw = raw
        self.limit = float(raw["limit"])
        self._fds = {name: fd for name, fd in raw["fds"].items() if fd >= 0}
        self._copies = {name: os.dup(fd) for name, fd in self._fds.items()}

    def pending(self) -> bool:
        """Whether the new version has not said that it is ready: then it closes the pipe."""
        return _same(self._fds["ready"], self._copies["ready"])

    def tell_guardian(self, why: str) -> None:
        """The old version starts."""
        line = BACK + why.encode(errors="replace").replace(b"\n", b" ")[:1000] + b"\n"
        with contextlib.suppress(OSError):
            os.write(self._copies["ready"], line)

    def go_back(self, why: str) -> None:
        """Become the old version, in this process. Returns only if that can't be executed."""
        for name, fd in self._fds.items():
            if _same(fd, self._copies[name]):
                os.set_inheritable(fd, False)
        for fd in self._copies.values():
            os.set_inheritable(fd, True)
        order = {**self.raw, "fds": self._copies, "gave_way": why}
        argv = order["back"]
        try:
            os.execve(argv[0], argv, {**os.environ, VARIABLE: json.dumps(order)})  # noqa: S606
        except OSError as error:
            print(f"instar: cannot go back to {argv[0]}: {error.strerror}", file=sys.stderr, flush=True)


def _same(one: int, other: int) -> bool:
    try:
        a, b = os.fstat(one), os.fstat(other)
    except OSError:
        return False
    return (a.st_dev, a.st_ino) == (b.st_dev, b.st_ino)


# --- the process itself -----------------------------------------------------------------------------


def lead() -> None:
    """Run the new version."""
    order = Order(json.loads(os.environ[VARIABLE]))

    def give_way(why: str) -> None:
        # Handlers go back to their defaults with the exec: a signal in between would end us.
        signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
        signal.setitimer(signal.ITIMER_REAL, 0)
        print(f"instar: the new version {why}; back to {order.raw['from_version']}", file=sys.stderr, flush=True)
        order.tell_guardian(why)
        order.go_back(why)

    def overdue(*_: object) -> None:
        if order.pending():
            give_way(f"was not ready within {order.limit:g} s")

    signal.signal(signal.SIGALRM, overdue)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGALRM,))
    signal.setitimer(signal.ITIMER_REAL, order.limit)
    try:
        _run(order.raw["program"])
    except BaseException as error:
        if order.pending():
            give_way(_described(error))
        raise
    if order.pending():
        give_way("ended before it was ready")


def _run(program: list[str]) -> None:
    """As the interpreter would: `-m MODULE`, or the path of a script."""
    module = program[1] if program[0] == "-m" else ""
    if not sys.flags.safe_path:
        sys.path[0] = str(Path.cwd() if module else Path(program[0]).parent)
    if module:
        sys.argv = [module, *sys.argv[2:]]
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    else:
        sys.argv = sys.argv[1:]
        runpy.run_path(program[0], run_name="__main__")


def _described(error: BaseException) -> str:
    # The command line makes a sentence and an exit code of an error.
    if isinstance(error, SystemExit) and isinstance(error.__context__, Exception):
        error = error.__context__
    if isinstance(error, SystemExit):
        return f"ended with status {error.code} before it was ready"
    return f"failed: {type(error).__name__}: {error}"


# --- the guardian -----------------------------------------------------------------------------------


def guard(pidfd: int, news: int, hello: int) -> int:
    """Wait for the word that the supervisor is ready; without it, become the old version."""
    # Ctrl-C is meant for the supervisor, and what comes while we become it must wait until it listens.
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    order = Order(json.loads(os.environ[VARIABLE]))
    os.write(hello, b"H")
    os.close(hello)
    why, back = _watch(order, news, pidfd), ""
    if why.startswith("B"):
        back = why[1:]
        why = _watch(order, news, pidfd, max(order.limit, BACK_LIMIT))
    if not why:
        return 0
    why = back or why
    _become_main(pidfd)
    if "WATCHDOG_PID" in os.environ:
        os.environ["WATCHDOG_PID"] = str(os.getpid())
    print(f"instar: the new version {why}; back to {order.raw['from_version']}", file=sys.stderr, flush=True)
    order.go_back(why)
    return 1


def _watch(order: Order, news: int, pidfd: int, limit: float = 0.0) -> str:
    """Why the process has to be replaced; `B` and its reason when it goes back by itself; nothing when it is ready."""
    ready, _, _ = select.select([news, pidfd], [], [], limit or order.limit + MARGIN)
    # What it said before it died counts: with the READY, whoever ends it has meant to.
    lines = os.read(news, 4096).splitlines(keepends=True) if news in ready else []
    if READY in lines:
        return ""
    if lines:
        return lines[0].decode(errors="replace").strip()
    if ready:
        return "died before it was ready"
    return f"was not ready within {order.limit:g} s, and hung where nothing could interrupt it"


def _become_main(pidfd: int) -> None:
    """Tell the service manager who speaks for the service, then end the other."""
    # Before the end: afterwards a service manager takes the service for dead.
    if address := os.environ.get("NOTIFY_SOCKET", ""):
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
            sock.settimeout(1.0)
            sock.sendto(f"MAINPID={os.getpid()}".encode(), address.replace("@", "\0", 1))
    with contextlib.suppress(ProcessLookupError):
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
    select.select([pidfd], [], [])


if __name__ == "__main__":
    if sys.argv[1] == "--guard":
        sys.exit(guard(*map(int, sys.argv[2:5])))
    lead()
