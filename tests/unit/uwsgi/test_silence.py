"""The limit for silence: every sign of life puts it off, and a cancellation from elsewhere is not taken for it."""

from __future__ import annotations

import asyncio

import pytest

from instar.uwsgi.silence import Silence


async def test_silence_ends_in_a_time_out() -> None:
    with pytest.raises(TimeoutError):
        async with Silence(0.05):
            await asyncio.sleep(20)
    # Nothing of it is left in the task.
    await asyncio.sleep(0)
    assert not asyncio.current_task().cancelling()


async def test_signs_of_life_put_it_off() -> None:
    async with Silence(0.2) as silence:
        for _ in range(8):
            await asyncio.sleep(0.05)
            silence.heard()


async def test_a_cancellation_stays_one() -> None:
    async def run() -> None:
        async with Silence(20):
            await asyncio.sleep(20)

    task = asyncio.create_task(run())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_an_error_inside_passes() -> None:
    with pytest.raises(OSError, match="x"):
        async with Silence(20):
            raise OSError("x")
