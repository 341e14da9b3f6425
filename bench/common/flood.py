"""As many requests as possible: wrk where it is installed, else a slower client of our own."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import re
import resource
import shutil
import subprocess
import sys
import time

from bench.common.http import HOST, Connection, RequestError, request_bytes
from bench.common.paths import ROOT

CONNECTIONS = 32
THREADS = 2


@dataclasses.dataclass(frozen=True)
class Flood:
    """One window of load."""

    requests: int
    errors: int
    seconds: float
    busy: float
    """CPU time of the generator as a share of what its threads or processes can use."""

    @property
    def rate(self) -> float:
        return self.requests / self.seconds


def flood(port: int, seconds: int) -> Flood:
    """Load one server for a while."""
    before = _children_cpu()
    begun = time.monotonic()
    requests, errors, lasted = _wrk(port, seconds) if shutil.which("wrk") else _clients(port, seconds)
    passed = time.monotonic() - begun
    return Flood(requests, errors, lasted, (_children_cpu() - before) / passed / THREADS)


def _children_cpu() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def _wrk(port: int, seconds: int) -> tuple[int, int, float]:
    argv = ["wrk", f"-t{THREADS}", f"-c{CONNECTIONS}", f"-d{seconds}s", f"http://{HOST}:{port}/"]
    output = subprocess.run(argv, capture_output=True, text=True, check=True).stdout
    done = re.search(r"(\d+) requests in ([\d.]+)(m?s)", output)
    assert done, output
    lasted = float(done[2]) / (1000 if done[3] == "ms" else 1)
    bad = re.search(r"Non-2xx or 3xx responses: (\d+)", output)
    # wrk counts as "read" errors the connections that a server closes after each answer: they are not failures.
    broken = re.search(r"connect (\d+), read \d+, write (\d+), timeout (\d+)", output)
    errors = int(bad[1]) if bad else 0
    errors += sum(map(int, broken.groups())) if broken else 0
    return int(done[1]), errors, lasted


def _clients(port: int, seconds: int) -> tuple[int, int, float]:
    argv = [sys.executable, "-m", "bench.common.flood", str(port), str(seconds), str(CONNECTIONS // THREADS)]
    clients = [subprocess.Popen(argv, cwd=ROOT, stdout=subprocess.PIPE, text=True) for _ in range(THREADS)]
    results = [json.loads(client.communicate()[0]) for client in clients]
    return sum(r[0] for r in results), sum(r[1] for r in results), seconds


async def _client(port: int, seconds: float, connections: int) -> tuple[int, int]:
    loop = asyncio.get_running_loop()
    limit = loop.time() + seconds
    counts = [0, 0]

    async def one() -> None:
        connection: Connection | None = None
        while loop.time() < limit:
            try:
                connection = connection or await Connection.open(port)
                answer = await connection.exchange(request_bytes())
                counts[0] += 1
                closing = answer.close
            except RequestError as error:
                counts[1] += error.kind not in {"closed", "reset"}  # a server may close after each answer
                closing = True
            if closing and connection:
                connection.close()
                connection = None

    await asyncio.gather(*[one() for _ in range(connections)])
    return counts[0], counts[1]


if __name__ == "__main__":
    print(json.dumps(asyncio.run(_client(int(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3])))))
