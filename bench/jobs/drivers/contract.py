"""What every driver does, and the work that all of them run: `python DRIVER.py VERB`.

A driver is a small program in one library's own terms, run by the interpreter that has the library. It gets its
orders from the environment and answers with one JSON value. A job writes one line of a fixed length when it begins,
so that whoever watches the file's size knows how many have begun, whatever processes or threads run them.
"""

from __future__ import annotations

import abc
import asyncio
import json
import os
import random
import sys
import time
from pathlib import Path
from typing import Any

#: Where the jobs are kept, in the library's own words.
STORE = os.environ.get("BENCH_JOBS_STORE", "")
#: The driver's own folder.
HOME = Path(os.environ.get("BENCH_JOBS_HOME", "."))
#: Jobs at a time.
CONCURRENCY = int(os.environ.get("BENCH_JOBS_CONCURRENCY", "10"))
#: Jobs in one call where the library has one for several.
BATCH = 1000
_LINE = "{:8d} {:20d} {:20d}\n"
LINE = len(_LINE.format(0, 0, 0))
#: Seconds between two jobs of `trickle`: from, to. The worker is idle in between.
_GAP = (0.015, 0.045)

_file = -1


def noop(number: int, sent: int = 0) -> None:
    """The work: say that it has begun, and when it was sent."""
    global _file
    now = time.monotonic_ns()
    if _file < 0:
        _file = os.open(HOME / "starts", os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    os.write(_file, _LINE.format(number, now, sent).encode())


def starts(folder: Path) -> list[tuple[int, int, int]]:
    """Number, beginning and sending (nanoseconds of the monotonic clock) of each run."""
    lines = (folder / "starts").read_text().splitlines()
    return [(int(line[:8]), int(line[9:29]), int(line[30:50])) for line in lines]


class Driver(abc.ABC):
    """One library. The sending half is asynchronous for those that are; for others nothing is ever awaited."""

    @abc.abstractmethod
    async def prepare(self) -> None:
        """Make the tables."""

    async def open(self) -> None:  # noqa: B027 - some need none
        """Be ready to send."""

    async def close(self) -> None:  # noqa: B027 - some need none
        """The opposite."""

    @abc.abstractmethod
    async def one(self, number: int, sent: int = 0) -> None:
        """Send one job; it is stored when this returns."""

    async def many(self, numbers: list[int]) -> None:
        """Send several in one call. Raises NotImplementedError where the library can't."""
        raise NotImplementedError

    @abc.abstractmethod
    def work(self) -> None:
        """Run jobs until SIGTERM."""

    async def ended(self) -> int:
        """Jobs that are on record as done well; -1: there is no such record."""
        return -1


async def _submit(driver: Driver, first: int, count: int, how: str) -> dict[str, Any]:
    numbers = list(range(first, first + count))
    await driver.open()
    try:
        begun = time.perf_counter()
        if how == "one":
            for number in numbers:
                await driver.one(number)
        else:
            for place in range(0, count, BATCH):
                await driver.many(numbers[place : place + BATCH])
        return {"seconds": time.perf_counter() - begun}
    except NotImplementedError:
        return {"seconds": None}
    finally:
        await driver.close()


async def _trickle(driver: Driver, first: int, count: int) -> dict[str, Any]:
    gaps = random.Random(first)
    await driver.open()
    try:
        for number in range(first, first + count):
            await driver.one(number, time.monotonic_ns())
            # The driver does nothing meanwhile: it has no event loop to serve.
            await asyncio.sleep(gaps.uniform(*_GAP))
    finally:
        await driver.close()
    return {}


async def _ended(driver: Driver) -> dict[str, Any]:
    await driver.open()
    try:
        return {"count": await driver.ended()}
    finally:
        await driver.close()


async def _prepare(driver: Driver) -> dict[str, Any]:
    await driver.prepare()
    return {}


def main(driver: Driver) -> None:
    """Do what the command line says: prepare, one|many FIRST COUNT, trickle FIRST COUNT, work, ended."""
    verb, *numbers = sys.argv[1:]
    match verb:
        case "prepare":
            answer = asyncio.run(_prepare(driver))
        case "one" | "many":
            answer = asyncio.run(_submit(driver, int(numbers[0]), int(numbers[1]), verb))
        case "trickle":
            answer = asyncio.run(_trickle(driver, int(numbers[0]), int(numbers[1])))
        case "ended":
            answer = asyncio.run(_ended(driver))
        case "work":
            driver.work()
            return
        case _:
            raise SystemExit(f"no such verb: {verb}")
    print(json.dumps(answer), flush=True)
