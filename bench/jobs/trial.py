"""One contender, once: send, run through, then one job at a time to an idle worker."""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import json
import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from bench.common.process import MARK, ServerError, Tree
from bench.jobs.contenders import CONCURRENCY, Contender
from bench.jobs.drivers.contract import LINE, starts

_DRIVERS = Path(__file__).parent / "drivers"
#: Seconds that a step may take.
_LIMIT = 120.0
_LOOK = 0.01


@dataclasses.dataclass(frozen=True)
class Size:
    """How many jobs."""

    #: Sent one at a time.
    single: int = 500
    #: Share of what a contender runs through in a full run.
    share: float = 1.0
    #: To an idle worker.
    trickle: int = 100


@dataclasses.dataclass
class Result:
    """Rates in jobs per second, times in seconds."""

    single: float = 0.0
    batch: float | None = None
    rate: float = 0.0
    #: Seconds of the workers' processes for one job.
    cpu: float = 0.0
    latencies: list[float] = dataclasses.field(default_factory=list)


class Trial:
    """A fresh store and a folder for one contender. Every method raises ServerError."""

    def __init__(self, contender: Contender, store: str, home: Path) -> None:
        self._contender = contender
        self._home = home
        self._tree = Tree()
        self._starts = home / "starts"
        self._environment = {
            **os.environ,
            "BENCH_JOBS_STORE": _url(contender, store),
            "BENCH_JOBS_HOME": str(home),
            "BENCH_JOBS_CONCURRENCY": str(CONCURRENCY),
            "PYTHONDONTWRITEBYTECODE": "1",
        }
        self._environment.pop("PYTHONPATH", None)

    def run(self, size: Size) -> Result:
        """All of it."""
        result = Result()
        self._ask("prepare")
        many = max(200, int(self._contender.jobs * size.share))
        seconds = self._ask("one", 0, size.single)["seconds"]
        result.single, sent = size.single / seconds, size.single
        seconds = self._ask("many", sent, many)["seconds"]
        if seconds is None:
            self._ask("one", sent, many)
        else:
            result.batch = many / seconds
        sent += many
        with self._worker():
            result.rate, result.cpu = self._run_through(sent)
            self._check_record(sent)
            if size.trickle and self._contender.library != "raw loop":
                result.latencies = self._trickle(sent, size.trickle)
                sent += size.trickle
        self._check_once(sent)
        return result

    # --- steps --------------------------------------------------------------------------------------

    def _run_through(self, count: int) -> tuple[float, float]:
        """Jobs per second from the first beginning to the last, and CPU seconds of a job."""
        self._await(lambda: self._begun() > 0, "begins no job")
        before, already = sum(self._tree.cpu_seconds().values()), self._begun()
        self._await(lambda: self._begun() >= count, f"doesn't begin all of {count} jobs")
        after = sum(self._tree.cpu_seconds().values())
        times = sorted(begun for _, begun, _ in starts(self._home))
        return (count - 1) / ((times[-1] - times[0]) / 1e9), (after - before) / max(1, count - already)

    def _check_record(self, count: int) -> None:
        """Every job that has begun is on record as done, soon."""
        end = time.monotonic() + 20
        while (found := self._ask("ended")["count"]) not in (count, -1):
            if time.monotonic() > end:
                raise ServerError(f"{self._contender.name}: {found} of {count} jobs are on record as done")
            time.sleep(0.1)

    def _trickle(self, first: int, count: int) -> list[float]:
        time.sleep(0.5)
        self._ask("trickle", first, count)
        self._await(lambda: self._begun() >= first + count, "doesn't begin the last jobs")
        found = [(begun - sent) / 1e9 for number, begun, sent in starts(self._home) if number >= first]
        # The first one pays for connections and imports.
        return found[1:]

    def _check_once(self, count: int) -> None:
        runs = collections.Counter(number for number, _, _ in starts(self._home))
        wrong = [number for number in range(count) if runs[number] != 1]
        if wrong:
            raise ServerError(f"{self._contender.name}: {len(wrong)} jobs ran never or more than once")

    # --- tools --------------------------------------------------------------------------------------

    def _begun(self) -> int:
        with contextlib.suppress(FileNotFoundError):
            return self._starts.stat().st_size // LINE
        return 0

    def _argv(self, verb: str, *numbers: int) -> list[str]:
        python = str(self._contender.venv / "bin" / "python")
        return [python, str(_DRIVERS / f"{self._contender.driver}.py"), verb, *map(str, numbers)]

    def _ask(self, verb: str, *numbers: int) -> dict[str, Any]:
        argv = self._argv(verb, *numbers)
        try:
            done = subprocess.run(
                argv, env=self._environment, cwd=self._home, capture_output=True, text=True, timeout=_LIMIT, check=False
            )
        except subprocess.TimeoutExpired:
            raise ServerError(f"{self._contender.name}: {verb} took longer than {_LIMIT:g} s") from None
        if done.returncode:
            raise ServerError(f"{self._contender.name}: {verb}: {_tail(done.stderr)}")
        answer: dict[str, Any] = json.loads(done.stdout)
        return answer

    @contextlib.contextmanager
    def _worker(self) -> Iterator[None]:
        environment = {**self._environment, MARK: self._tree.token}
        with open(self._home / "output", "wb") as output:
            self._process = subprocess.Popen(
                self._argv("work"), env=environment, cwd=self._home, stdin=subprocess.DEVNULL, stdout=output,
                stderr=output, start_new_session=True,
            )  # fmt: skip
        try:
            yield
        finally:
            self._process.send_signal(signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(5)
            self._tree.kill()
            self._process.wait()

    def _await(self, condition: Callable[[], bool], otherwise: str) -> None:
        end = time.monotonic() + _LIMIT
        while not condition():
            if self._process.poll() is not None or time.monotonic() > end:
                raise ServerError(f"{self._contender.name} {otherwise}: {_tail((self._home / 'output').read_text())}")
            time.sleep(_LOOK)


def _url(contender: Contender, store: str) -> str:
    return f"sqlite:///{store}" if contender.driver == "with_instar" and store.startswith("/") else store


def _tail(text: str) -> str:
    return " / ".join(line.strip() for line in text.splitlines()[-4:])


def attempt(contender: Contender, make: Callable[[str], str], name: str, size: Size) -> Result:
    """A trial in a folder of its own. Raises ServerError."""
    with tempfile.TemporaryDirectory(prefix="bench-jobs-") as home:
        return Trial(contender, make(name), Path(home)).run(size)
