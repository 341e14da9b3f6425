"""Where a process of a generation writes."""

from __future__ import annotations

import os
from pathlib import Path


def redirect_output(folder: str, role: str) -> None:
    """Append standard output and error to `<role>.out`, which the supervisor follows; it outlives both sides."""
    path = Path(folder) / f"{role}.out"
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o640)
    os.dup2(fd, 1)
    os.dup2(fd, 2)
    os.close(fd)
