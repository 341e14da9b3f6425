"""Memory of an application that holds 200 MB of Python objects: by number of workers, and the peak during a restart.

`python -m bench.memory [--quick] [--json] [--only PART]`

Memory is the proportional set size (PSS) of all processes of a server, which counts shared pages once. The resting
value is taken after every worker has run its garbage collector: that ends the sharing where nobody takes care.
"""

from __future__ import annotations

import dataclasses
import threading
import time
from typing import Any

from bench.common import restarts, servers
from bench.common.http import probe
from bench.common.process import Server, ServerError, Tree
from bench.common.report import Options, Report, Table, main, say
from bench.common.servers import Kind

INTERVAL = 0.05
"""Seconds between two samples during a restart."""


@dataclasses.dataclass(frozen=True)
class Case:
    """A server, and how it is restarted."""

    kind: Kind
    action: restarts.Action
    how: str


CASES = [
    Case(servers.INSTAR_GRANIAN_WSGI, restarts.instar, "instar restart"),
    Case(servers.INSTAR_GUNICORN, restarts.instar, "instar restart"),
    Case(servers.GUNICORN_PRELOAD, restarts.usr2_term, "USR2+TERM"),
    Case(servers.GUNICORN, restarts.hup, "HUP"),
    Case(servers.GRANIAN_WSGI, restarts.hup, "HUP"),
    Case(servers.UWSGI_ROUTER, restarts.hup, "HUP"),
]


class Peak:
    """The highest PSS of a tree while the context lasts, sampled by a thread."""

    def __init__(self, tree: Tree) -> None:
        self._tree = tree
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self.megabytes = 0.0
        self.samples = 0

    def _watch(self) -> None:
        while not self._over.is_set():
            self.megabytes = max(self.megabytes, self._tree.pss())
            self.samples += 1
            self._over.wait(INTERVAL)

    def __enter__(self) -> Peak:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._over.set()
        self._thread.join()


def collect_everywhere(server: Server, workers: int) -> None:
    """Run the garbage collector in every worker. Raises ServerError."""
    limit = time.monotonic() + 30
    met: set[int] = set()
    while len(met) < workers:
        if time.monotonic() > limit:
            raise ServerError(f"{server.name}: only {len(met)} of {workers} workers answer")
        met.add(probe(server.port, "/collect", timeout=30).pid)


@dataclasses.dataclass
class Result:
    """PSS in MB."""

    started: dict[int, float] = dataclasses.field(default_factory=dict)
    collected: dict[int, float] = dataclasses.field(default_factory=dict)
    """By number of workers."""
    peak: float = float("nan")
    samples: int = 0


def measure(case: Case, workers: int, ballast: int, result: Result, *, restart: bool) -> None:
    """One server with so many workers; the restart is measured in the last."""
    with servers.running(case.kind, workers=workers, ballast=ballast) as server:
        server.worker_pids(workers)
        result.started[workers] = server.tree.pss()
        collect_everywhere(server, workers)
        result.collected[workers] = server.tree.pss()
        if restart:
            with Peak(server.tree) as peak:
                restarts.perform(server, case.action)
            result.peak, result.samples = peak.megabytes, peak.samples


def cells(case: Case, result: Result) -> list[str]:
    counts = sorted(result.collected)
    one, most = result.collected[counts[0]], result.collected[counts[-1]]
    sizes = [f"{result.collected[count]:.0f}" for count in counts]
    fresh = f"{result.started[counts[-1]]:.0f}"
    return [
        case.kind.name,
        fresh,
        *sizes,
        f"{most / one:.2f}",
        case.how,
        f"{result.peak:.0f}",
        f"{result.peak / most:.2f}",
    ]


def row(case: Case, result: Result) -> dict[str, Any]:
    return {"server": case.kind.name, "restart": case.how, **dataclasses.asdict(result)}


def run(options: Options) -> Report:
    """Measure all servers, one after the other."""
    report = Report("memory", notes=servers.available())
    ballast, counts = (50, (1, 4)) if options.quick else (200, (1, 4))
    columns = ["server", f"{counts[-1]} started MB", *(f"{count} collected MB" for count in counts)]
    columns += [f"{counts[-1]} / 1", "restart", "peak MB", "peak / before"]
    table = Table(f"PSS of an application that holds {ballast} MB, by number of workers", columns)
    for case in CASES:
        if not options.wants(case.kind.name):
            continue
        say(f"memory: {case.kind.name}")
        result = Result()
        try:
            for workers in counts:
                measure(case, workers, ballast, result, restart=workers == counts[-1])
        except ServerError as error:
            report.notes.append(f"{case.kind.name}: {error}")
        if set(result.collected) == set(counts):
            table.rows.append(cells(case, result))
            report.data.append(row(case, result))
    report.tables.append(table)
    report.notes.append(
        f"`started`: all workers answer; `collected`: after `gc.collect()` in each. The peak is sampled every "
        f"{INTERVAL * 1000:.0f} ms. Aim: 4 workers at most 1.3 times one."
    )
    return report


if __name__ == "__main__":
    main(run, __doc__)
