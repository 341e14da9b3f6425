"""Requests per second of two servers in pairs of windows that alternate, so that a noisy machine disturbs both alike.

`python -m bench.throughput [--quick] [--json] [--only PART]`

Both servers of a pair run at the same time; the load (wrk, 32 connections) goes to one of them, then to the other, for
a second each. The ratio of every pair of windows is taken first, then their median and quartiles. CPU per request is
all user and system time of the server's processes. The first pair compares a server with itself: that is the noise.
"""

from __future__ import annotations

import contextlib
import dataclasses
import shutil
from typing import Any

from bench.common import flood, servers
from bench.common.process import Server, ServerError, autogroup
from bench.common.report import Options, Report, Table, main, say
from bench.common.stats import quartiles

WORKING = 0.05
"""A process that uses so many seconds of CPU in a window does work for requests."""


@dataclasses.dataclass(frozen=True)
class Pair:
    """The left server is measured against the right one."""

    left: servers.Kind
    right: servers.Kind
    aim: str = ""

    @property
    def name(self) -> str:
        return f"{self.left.name} / {self.right.name}"


PAIRS = [
    Pair(servers.GRANIAN_WSGI, servers.GRANIAN_WSGI, "1 (noise)"),
    Pair(servers.INSTAR_GRANIAN_WSGI, servers.GRANIAN_WSGI, "≥ 0.97"),
    Pair(servers.INSTAR_GRANIAN_ASGI, servers.GRANIAN_ASGI, "≥ 0.97"),
    Pair(servers.INSTAR_UVICORN, servers.UVICORN, "≥ 0.97"),
    Pair(servers.INSTAR_GUNICORN, servers.GUNICORN, "≥ 0.97"),
    Pair(servers.INSTAR_GRANIAN_WSGI, servers.UWSGI_ROUTER, "≥ 2"),
    Pair(servers.INSTAR_GRANIAN_WSGI, servers.UWSGI_ROUTER_CLOSING, "≥ 2"),
    Pair(servers.GRANIAN_WSGI, servers.UWSGI_ROUTER),
    Pair(servers.NGINX_INSTAR_UWSGI, servers.NGINX_UWSGI),
    Pair(servers.NGINX_INSTAR_BINARY, servers.NGINX_UWSGI),
    Pair(servers.NGINX_INSTAR_PROXY, servers.NGINX_UWSGI),
]


@dataclasses.dataclass
class Side:
    """What was measured of one server."""

    rates: list[float] = dataclasses.field(default_factory=list)
    requests: int = 0
    errors: int = 0
    cpu: float = 0.0
    """Seconds."""
    generator: float = 0.0
    """The busiest window of the load generator, as a share of what it could use."""
    groups: int = 1
    """Scheduling groups that the working processes are spread over: a server with more of them gets more CPU time."""

    @property
    def cpu_per_request(self) -> float:
        """In seconds."""
        return self.cpu / self.requests if self.requests else float("nan")


def window(server: Server, side: Side | None) -> None:
    """One second of load; without `side` it only warms up."""
    before = server.tree.cpu_seconds()
    result = flood.flood(server.port, 1)
    if side is None:
        return
    used = {pid: seconds - before.get(pid, 0.0) for pid, seconds in server.tree.cpu_seconds().items()}
    side.cpu += sum(used.values())
    side.groups = len({autogroup(pid) for pid, seconds in used.items() if seconds > WORKING})
    side.rates.append(result.rate)
    side.requests += result.requests
    side.errors += result.errors
    side.generator = max(side.generator, result.busy)


def run_pair(pair: Pair, count: int) -> tuple[Side, Side]:
    """Alternate between the two servers of a pair, beginning with each in turn."""
    with contextlib.ExitStack() as stack:
        both = [stack.enter_context(servers.running(kind)) for kind in (pair.left, pair.right)]
        sides = (Side(), Side())
        for server in both:
            window(server, None)
        for number in range(count):
            for index in (0, 1) if number % 2 == 0 else (1, 0):
                window(both[index], sides[index])
    return sides


COLUMNS = [
    "pair",
    "aim",
    "ratio",
    "quartiles",
    "req/s",
    "req/s",
    "CPU µs/req",
    "CPU µs/req",
    "CPU ratio",
    "errors",
    "generator",
]


def cells(pair: Pair, left: Side, right: Side) -> list[str]:
    low, middle, high = ratios(left, right)
    rates = [f"{quartiles(side.rates)[1]:.0f}" for side in (left, right)]
    costs = [f"{side.cpu_per_request * 1e6:.0f}" for side in (left, right)]
    cost_ratio = f"{left.cpu_per_request / right.cpu_per_request:.2f}"
    busiest = f"{max(left.generator, right.generator):.0%}"
    errors = str(left.errors + right.errors)
    return [
        pair.name,
        pair.aim,
        f"{middle:.2f}",
        f"{low:.2f} to {high:.2f}",
        *rates,
        *costs,
        cost_ratio,
        errors,
        busiest,
    ]


def ratios(left: Side, right: Side) -> tuple[float, float, float]:
    """Quartiles of the ratios of the paired windows."""
    return quartiles([a / b for a, b in zip(left.rates, right.rates, strict=True) if b])


def row(pair: Pair, left: Side, right: Side) -> dict[str, Any]:
    low, middle, high = ratios(left, right)
    ratio = {"low": low, "median": middle, "high": high}
    return {"pair": pair.name, "ratio": ratio, "left": dataclasses.asdict(left), "right": dataclasses.asdict(right)}


def run(options: Options) -> Report:
    """Measure all pairs."""
    report = Report("throughput", notes=servers.available())
    table = Table("Two workers (WSGI: of four threads), 32 kept-alive connections; left / right", COLUMNS)
    count = 3 if options.quick else 10
    for pair in PAIRS:
        if not options.wants(pair.name):
            continue
        say(f"throughput: {pair.name}")
        try:
            left, right = run_pair(pair, count)
        except ServerError as error:
            report.notes.append(f"{pair.name}: {error}")
            continue
        table.rows.append(cells(pair, left, right))
        if left.groups != right.groups:
            report.notes.append(f"{pair.name}: unequal scheduling groups (autogroup): {left.groups} and {right.groups}")
        report.data.append(row(pair, left, right))
    report.tables.append(table)
    report.notes.append(
        f"{count} pairs of windows of 1 s. `generator`: how busy the load generator's threads were at most."
    )
    if not shutil.which("wrk"):
        report.notes.append("wrk is not installed: a client in Python made the load and was probably the bottleneck.")
    return report


if __name__ == "__main__":
    main(run, __doc__)
