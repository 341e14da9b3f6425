"""Which program stands in for uWSGI: the real one, or instar's own."""

from __future__ import annotations

import asyncio
import shutil

from instar.errors import InstarError


async def wrapper_is_uwsgi(wrapper: str) -> bool:
    """Whether a wrapper is the real uWSGI, by what it answers to --version. Raises InstarError when it can't be run."""
    if not wrapper:
        return False
    if shutil.which(wrapper) is None:
        raise InstarError(f"cannot use emperor-wrapper {wrapper}: there is no such program")
    process = await asyncio.create_subprocess_exec(
        wrapper,
        "--version",
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        output, _ = await asyncio.wait_for(process.communicate(), 20.0)
    except TimeoutError:
        process.kill()
        await process.wait()
        raise InstarError(f"cannot use emperor-wrapper {wrapper}: it doesn't answer to --version") from None
    return b"instar" not in output
