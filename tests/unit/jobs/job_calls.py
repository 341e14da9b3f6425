"""What jobs of the tests call. Everything is told apart by files in the folder that they are given."""

from __future__ import annotations

import os
import time
from pathlib import Path

from instar.jobs import HandBack, current_job

LIMIT = 60.0


def add(a: int, b: int) -> int:
    return a + b


def fail(text: str) -> None:
    raise ValueError(text)


def wait_for_file(folder: str) -> str:
    """Begin, and end when the file `go` is there."""
    note(folder, "begun")
    _until(lambda: Path(folder, "go").exists())
    note(folder, "ended")
    return current_job().key


def give_back(folder: str) -> str:
    """Hand the work back when the handler has to leave; the second time, do it."""
    note(folder, "begun")
    if Path(folder, "given").exists():
        return "done"
    current_job().progress(done=1, total=2)
    _until(current_job().releasing.is_set)
    Path(folder, "given").touch()
    raise HandBack("not today")


def until_cancelled(folder: str) -> None:
    note(folder, "begun")
    _until(current_job().cancelled.is_set)
    raise RuntimeError("cancelled")


def stubborn(folder: str) -> str:
    """Does not end the first time."""
    note(folder, "begun")
    if Path(folder, "begun").read_text().count("\n") == 1:
        _until(lambda: Path(folder, "go").exists())
        return "too late"
    return "done"


def note(folder: str, what: str) -> None:
    fd = os.open(Path(folder, what), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.write(fd, f"{current_job().key}\n".encode())
    os.close(fd)


def _until(condition: object) -> None:
    end = time.monotonic() + LIMIT
    while not condition() and time.monotonic() < end:
        time.sleep(0.005)


def meet(folder: str, number: int, count: int) -> None:
    """End when so many calls are here at the same time."""
    note(folder, f"here-{number}")
    _until(lambda: all(Path(folder, f"here-{each}").exists() for each in range(count)))
