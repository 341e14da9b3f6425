"""Latency of everybody else while one of four workers is blocked.

`python -m bench.blocked [--quick] [--json] [--only PART]`

WSGI: requests that sleep hold all threads of one worker. ASGI: one request sleeps inside the event loop of one worker.
Meanwhile new connections arrive at a fixed rate, whether the ones before were answered or not (closed loops would hide
the stranded ones), and kept-alive connections, opened before, send a request each.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import dataclasses
import time
from typing import Any

from bench.common import servers
from bench.common.http import Connection, RequestError, request_bytes
from bench.common.process import Server, ServerError
from bench.common.report import Options, Report, Table, main, say
from bench.common.servers import Kind
from bench.common.stats import percentile

WORKERS = 4
THREADS = 4
#: A request that takes longer was stranded behind the blocked worker, in seconds.
STRANDED = 0.25
RATE = 100
"""New connections per second."""
KEPT = 32
"""Kept-alive connections."""


def steered(kind: Kind, engine: str) -> list[Kind]:
    """The same with a socket for each worker and with one for all."""
    return [
        dataclasses.replace(kind, name=f"{kind.name}, {mode}", argv=servers.instar(engine, mode))
        for mode in ("steered", "shared")
    ]


KINDS = [
    *steered(servers.INSTAR_GRANIAN_WSGI, "granian"),
    *steered(servers.INSTAR_GRANIAN_ASGI, "granian"),
    *steered(servers.INSTAR_UVICORN, "uvicorn"),
    *steered(servers.INSTAR_GUNICORN, "gunicorn"),
    servers.GRANIAN_WSGI,
    servers.GRANIAN_ASGI,
    servers.UVICORN,
    servers.GUNICORN,
    servers.UWSGI_ROUTER,
]


@dataclasses.dataclass
class Result:
    """Latencies in seconds; a request without an answer counts with the time it waited."""

    steady: list[float]
    blocked: list[float]
    kept: list[float]
    failed: int


class Clients:
    """The other clients of one server."""

    def __init__(self, port: int) -> None:
        self._port = port
        self.failed = 0

    async def once(self, connection: Connection | None = None) -> float:
        """One request; its latency, also when it fails."""
        begun = time.monotonic()
        fresh = connection is None
        try:
            connection = connection or await Connection.open(self._port)
            await connection.exchange(request_bytes(close=fresh))
        except RequestError:
            self.failed += 1
        if fresh and connection:
            connection.close()
        return time.monotonic() - begun

    async def arrive(self, seconds: float) -> list[float]:
        """New connections at a fixed rate; returns when the last is answered."""
        begun = asyncio.get_running_loop().time()
        tasks = []
        for number in range(int(RATE * seconds)):
            await asyncio.sleep(begun + number / RATE - asyncio.get_running_loop().time())
            tasks.append(asyncio.create_task(self.once()))
        return list(await asyncio.gather(*tasks))

    async def keep(self) -> list[Connection]:
        """Connections that have been used once."""
        kept = [await Connection.open(self._port) for _ in range(KEPT)]
        for connection in kept:
            await connection.exchange(request_bytes())
        return kept


async def block(port: int, pid: int, threads: int, seconds: float, attempts: int = 200) -> list[asyncio.Task[None]]:
    """Occupy `threads` threads of worker `pid`; the tasks end with the blocking. Raises ServerError."""
    request = request_bytes(f"/block?pid={pid}&seconds={seconds}", close=True)

    async def one() -> None:
        with contextlib.suppress(RequestError):
            connection = await Connection.open(port)
            await connection.exchange(request)
            connection.close()

    held: set[asyncio.Task[None]] = set()
    for _ in range(attempts):
        held.add(asyncio.create_task(one()))
        _, held = await asyncio.wait(held, timeout=0.05, return_when=asyncio.FIRST_COMPLETED)
        if len(held) >= threads:
            return list(held)
    raise ServerError("the requests that block did not reach the worker")


def busiest(server: Server) -> int:
    """The worker that most connections reach: with little to do, workers that share a socket get unequal shares."""
    return collections.Counter(answer.pid for answer in server.answers(40)).most_common(1)[0][0]


async def measure(server: Server, threads: int, seconds: float) -> Result:
    """Latencies before and during the block."""
    clients = Clients(server.port)
    steady = await clients.arrive(seconds)
    kept = await clients.keep()
    pid = busiest(server)
    blockers = await block(server.port, pid, threads, seconds + 2.0)
    fresh, used = await asyncio.gather(
        clients.arrive(seconds), asyncio.gather(*[clients.once(connection) for connection in kept])
    )
    await asyncio.gather(*blockers)
    for connection in kept:
        connection.close()
    return Result(sorted(steady), sorted(fresh), sorted(used), clients.failed)


def threads_of(kind: Kind) -> int:
    """How many requests block a worker."""
    return THREADS if kind.interface == "wsgi" else 1


COLUMNS = ["server", "steady p50 ms", "p99", "blocked p50 ms", "p99", "max", "stranded new", "stranded kept", "failed"]


def share(latencies: list[float]) -> str:
    return f"{sum(latency > STRANDED for latency in latencies) / len(latencies):.0%}"


def cells(kind: Kind, result: Result) -> list[str]:
    steady, blocked = result.steady, result.blocked
    points = [percentile(steady, 0.5), percentile(steady, 0.99)]
    points += [percentile(blocked, 0.5), percentile(blocked, 0.99), blocked[-1]]
    times = [f"{point * 1000:.1f}" for point in points]
    return [kind.name, *times, share(blocked), share(result.kept), str(result.failed)]


def row(kind: Kind, result: Result) -> dict[str, Any]:
    return {"server": kind.name, **dataclasses.asdict(result)}


def run(options: Options) -> Report:
    """Measure all servers, one after the other."""
    report = Report("blocked", notes=servers.available())
    seconds = 1.5 if options.quick else 3.0
    table = Table(f"One of {WORKERS} workers blocked for {seconds + 2:g} s", COLUMNS)
    for kind in KINDS:
        if not options.wants(kind.name):
            continue
        say(f"blocked: {kind.name}")
        try:
            with servers.running(kind, workers=WORKERS, threads=THREADS) as server:
                server.worker_pids(WORKERS)
                result = asyncio.run(measure(server, threads_of(kind), seconds))
        except ServerError as error:
            report.notes.append(f"{kind.name}: {error}")
            continue
        table.rows.append(cells(kind, result))
        report.data.append(row(kind, result))
    report.tables.append(table)
    report.notes.append(
        f"{RATE} new connections a second. Stranded: answered after more than {STRANDED:g} s, as a share of the new "
        f"connections and of the {KEPT} kept-alive ones, which belong to a worker already."
    )
    return report


if __name__ == "__main__":
    main(run, __doc__)
