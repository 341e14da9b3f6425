"""Asks one instance by a socket of its own whether it answers."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from pathlib import Path

#: Seconds for one answer, and between two questions.
_PATIENCE, _PAUSE = 10.0, 0.1
_FIRST_ERROR = 500


async def until_answers(path: Path, target: str, *, limit: float, alive: Callable[[], bool]) -> str:
    """Ask until it answers without an error. Empty: it does; else why not, in words for after "it"."""
    loop = asyncio.get_running_loop()
    end, why = loop.time() + limit, "does not answer"
    while loop.time() < end:
        if not alive():
            return "ended"
        status = await _ask(path, target)
        if status and status < _FIRST_ERROR:
            return ""
        why = f"answers {target} with status {status}" if status else why
        await asyncio.sleep(_PAUSE)
    return f"{why} after {limit:g} s"


async def _ask(path: Path, target: str) -> int:
    """Status of the answer to a GET; 0 without one."""
    with contextlib.suppress(OSError, TimeoutError, ValueError, asyncio.LimitOverrunError):
        async with asyncio.timeout(_PATIENCE):
            reader, writer = await asyncio.open_unix_connection(path)
            try:
                writer.write(f"GET {target} HTTP/1.0\r\nHost: localhost\r\nUser-Agent: instar\r\n\r\n".encode())
                line = await reader.readline()
                version, status, *_ = line.split(None, 2)
                return int(status) if version.startswith(b"HTTP/") else 0
            finally:
                writer.close()
    return 0
