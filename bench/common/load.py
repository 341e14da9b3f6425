"""The load: client processes of their own that record every request, in three classes.

new   a connection per request, from 0 to 40 ms between requests
busy  kept-alive connections, from 0 to 8 ms between requests
idle  kept-alive connections that wake up after 0 to 1.5 s

A request failed when it was sent on a connection that the server had not announced to close, and no complete
valid response came back. The clients are careful: they look at a kept-alive connection just before they send. One that
the server has closed by then, without having announced it, is no failure here but counted apart ("dropped"): a client
that does not look would have failed.
"""

from __future__ import annotations

import argparse
import asyncio
import collections
import contextlib
import dataclasses
import gc
import json
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Literal

from bench.common.http import Connection, RequestError, request_bytes
from bench.common.paths import ROOT
from bench.common.stats import percentile

ClientClass = Literal["new", "busy", "idle"]
#: Class → the longest pause between two requests, in seconds.
PAUSES: dict[ClientClass, float] = {"new": 0.04, "busy": 0.008, "idle": 1.5}
#: Class → connections in each client process.
CONNECTIONS: dict[ClientClass, int] = {"new": 4, "busy": 4, "idle": 8}
PROCESSES = 2


@dataclasses.dataclass(frozen=True)
class Sample:
    """One request."""

    begun: float
    """Monotonic time, in seconds."""
    latency: float
    """Until the end of the response or the failure, in seconds; includes the connect of a new connection."""
    client: str
    failure: str
    """Empty, or how it failed."""
    dropped: bool
    """The server had closed the idle connection of this client without having announced it."""


class Client:
    """A client of one class, one request at a time."""

    def __init__(self, client: ClientClass, port: int, samples: list[Sample]) -> None:
        self._class: ClientClass = client
        self._port = port
        self._samples = samples
        self._request = request_bytes(close=client == "new")
        self._connection: Connection | None = None

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            await asyncio.sleep(random.random() * PAUSES[self._class])
            begun = time.monotonic()
            failure = ""
            dropped = bool(self._connection and not self._connection.usable())
            if dropped:
                self._drop()
            try:
                await self._exchange()
            except RequestError as error:
                failure = error.kind
            self._samples.append(Sample(begun, time.monotonic() - begun, self._class, failure, dropped))

    async def _exchange(self) -> None:
        if not self._connection:
            self._connection = await Connection.open(self._port)
        try:
            answer = await self._connection.exchange(self._request)
        except RequestError:
            self._drop()
            raise
        if answer.close or self._class == "new":
            self._drop()

    def _drop(self) -> None:
        assert self._connection
        self._connection.close()
        self._connection = None


async def generate(port: int) -> list[Sample]:
    """Apply the load until standard input ends."""
    samples: list[Sample] = []
    clients = [Client(kind, port, samples) for kind, count in CONNECTIONS.items() for _ in range(count)]
    tasks = [asyncio.create_task(client.run()) for client in clients]
    await asyncio.to_thread(sys.stdin.read)
    for task in tasks:
        task.cancel()
    return samples


def main() -> None:
    """`python -m bench.common.load PORT`: samples as JSON on standard output when standard input ends."""
    arguments = argparse.ArgumentParser()
    arguments.add_argument("port", type=int)
    gc.disable()  # a collection would look like the server's latency
    samples = asyncio.run(generate(arguments.parse_args().port))
    json.dump([dataclasses.astuple(sample) for sample in samples], sys.stdout)


class Load:
    """The running client processes; `samples` is filled when the context ends."""

    def __init__(self) -> None:
        self.samples: list[Sample] = []

    def between(self, begin: float, end: float) -> list[Sample]:
        """The requests that began in an interval of the monotonic clock."""
        return [sample for sample in self.samples if begin <= sample.begun < end]


@contextlib.contextmanager
def running(port: int) -> Iterator[Load]:
    """Load on `port` during the context."""
    argv = [sys.executable, "-m", "bench.common.load", str(port)]
    clients = [
        subprocess.Popen(argv, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for _ in range(PROCESSES)
    ]
    load = Load()
    try:
        yield load
    finally:
        for client in clients:
            assert client.stdin
            client.stdin.close()
            client.stdin = None
        outputs = [client.communicate(timeout=30)[0] for client in clients]
    load.samples = [Sample(*row) for output in outputs for row in json.loads(output)]


@dataclasses.dataclass
class Summary:
    """Counts and latencies (seconds) of some requests; latencies of answered requests only."""

    requests: int = 0
    failures: dict[str, int] = dataclasses.field(default_factory=dict)
    by_client: dict[str, int] = dataclasses.field(default_factory=dict)
    dropped: int = 0
    p50: float = float("nan")
    p99: float = float("nan")
    max: float = float("nan")

    @property
    def failed(self) -> int:
        return sum(self.failures.values())


def summarize(samples: list[Sample]) -> Summary:
    """Counts by kind of failure and by client class, and latencies."""
    good = sorted(sample.latency for sample in samples if not sample.failure)
    bad = [sample for sample in samples if sample.failure]
    return Summary(
        requests=len(samples),
        failures=dict(collections.Counter(sample.failure for sample in bad).most_common()),
        by_client=dict(collections.Counter(sample.client for sample in bad).most_common()),
        dropped=sum(sample.dropped for sample in samples),
        p50=percentile(good, 0.5),
        p99=percentile(good, 0.99),
        max=good[-1] if good else float("nan"),
    )


if __name__ == "__main__":
    main()
