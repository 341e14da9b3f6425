"""A program that knows nothing of instar but its environment: beats in the ledger until SIGTERM."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path


def main() -> None:
    """With `daemon` as argument: leave a daemon that beats as well, with all its descriptors closed, and go on."""
    fd = os.open(os.environ["TEST_LEDGER"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    who = f"{os.environ['INSTAR_HANDLER']} {os.environ['INSTAR_EPOCH']} {os.getpid()}"

    def write(what: str) -> None:
        os.write(fd, f"{time.monotonic():.6f} {who} {what}\n".encode())

    daemon = "daemon" in sys.argv
    leave = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: leave.set())
    if "beat" in sys.argv:
        _daemon(Path(sys.argv[-1]), write)
        return
    write("enter")
    token = Path(os.environ["TEST_LEDGER"]).with_name(f"daemon-{os.getpid()}")
    if daemon:
        token.touch()
        subprocess.Popen(
            [sys.executable, __file__, "beat", str(token)], start_new_session=True, stdin=subprocess.DEVNULL
        )
    while not leave.wait(0.02):
        write("beat")
    write("exit")
    token.unlink(missing_ok=True)


def _daemon(token: Path, write: Callable[[str], None]) -> None:
    """Deaf to SIGTERM; outlives the program, whose file it watches, for a while: the name is free only after both."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    while token.exists():
        write("beat")
        time.sleep(0.02)
    for _ in range(5):
        write("beat")
        time.sleep(0.02)


main()
