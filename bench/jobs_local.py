"""What a local job costs: from the request to the recorded end, and in memory, beside a plain subprocess.

`python -m bench.jobs_local [COUNT]`
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

from instar.jobs.runners.base import Assignment, Notice, Setup
from instar.jobs.runners.local import LocalRunner


def main() -> None:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 100
    with tempfile.TemporaryDirectory(prefix="instar-bench-") as folder:
        bench = Bench(Path(folder))
        try:
            bench.one("warm-up", "/bin/true")
            pairs = [(plain(), bench.one(f"true-{number}", "/bin/true")) for number in range(count)]
            print(f"{count} times /bin/true, in turn; ms, median and best")
            row("plain subprocess", [pair[0] for pair in pairs])
            row("local: request answered, program begun", [pair[1][0] for pair in pairs])
            row("local: end recorded and heard of", [pair[1][1] for pair in pairs])
            print(f"private memory of a shim: {bench.private_memory() / 1e6:.1f} MB")
        finally:
            bench.close()


def row(what: str, seconds: list[float]) -> None:
    print(f"{what:40} {statistics.median(seconds) * 1000:7.2f} {min(seconds) * 1000:7.2f}")


def plain() -> float:
    began = time.perf_counter()
    subprocess.run(["/bin/true"], check=True)
    return time.perf_counter() - began


class Bench:
    """A runner, and the ends that it has reported."""

    def __init__(self, folder: Path) -> None:
        self._ended = threading.Event()
        self._runner = LocalRunner(Setup("local", folder=folder / "jobs"))
        self._runner.open(self._hear)

    def _hear(self, notice: Notice) -> None:
        if notice.phase.final:
            self._ended.set()

    def one(self, key: str, *argv: str) -> tuple[float, float]:
        """Seconds until it has begun, and until its end was reported."""
        self._ended.clear()
        began = time.perf_counter()
        self._runner.start(Assignment(key, 1, 1, argv, dispatched_at=time.time()))
        running = time.perf_counter()
        self._ended.wait()
        return running - began, time.perf_counter() - began

    def private_memory(self) -> float:
        """Bytes that a shim has for itself while its program runs."""
        assignment = Assignment("sleep", 1, 1, ("sleep", "60"), dispatched_at=time.time())
        self._ended.clear()
        pid = self._runner.start(assignment).external_id.partition("@")[0]
        time.sleep(0.2)
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]
        sizes = {name: int(text.split()[0]) * 1024 for name, text in (line.split(":") for line in lines)}
        self._runner.cancel(assignment, now=True)
        self._ended.wait()
        return sizes["Private_Clean"] + sizes["Private_Dirty"]

    def close(self) -> None:
        self._runner.close()


if __name__ == "__main__":
    main()
