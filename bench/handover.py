"""How long a name is unheld when its background handler is replaced, by instar and by uWSGI's zerg pool and mules.

`python -m bench.handover [--quick] [--json] [--only PART]`

A handler beats every half millisecond. The gap is the time from the last beat of a holder to the first of the next
one under the same name. The first rows replace one handler again and again; the last ones restart a whole application
that loads in 2 s (uWSGI as in bench/recipe).
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import signal
import time
from collections.abc import Callable, Iterator

from bench.common import beats, machine, recipe, servers
from bench.common.paths import APPS, INSTAR_VENV
from bench.common.process import Server, ServerError
from bench.common.recipe import NAMES, Site
from bench.common.report import Options, Report, Table, main, say
from bench.common.stats import percentile
from instar.control.client import Client

#: Seconds that a holder works before it is replaced: long enough to have grown.
_WORK = 0.05
#: MB that a holder has taken when it is killed; with the interpreter it stays below 100.
_GROWN = 60
_BOOT = 2.0

CONFIG = """\
[app]
name = "main"
target = "handover_app:wsgi"
interface = "wsgi"
chdir = "{apps}"
[web]
bind = ["127.0.0.1:{port}"]
workers = 2
[restart]
grace = 0.5
[handlers.job-handlers]
count = 2
{work}
# So that a hundred kills in a row measure the replacement and not the pause before it.
backoff = 0.001
backoff_limit = 0.001
"""
WARM = 'target = "handover_app:handler"'
COLD = f'script = "{APPS / "handover_app.py"}"'


@dataclasses.dataclass
class Result:
    """One row; times in seconds."""

    gaps: list[float] = dataclasses.field(default_factory=list)
    totals: list[float] = dataclasses.field(default_factory=list)
    #: How often the application was loaded for each restart.
    boots: list[int] = dataclasses.field(default_factory=list)
    load: str = ""
    busy: float = 0.0
    problem: str = ""


# --- instar -------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def instar(work: str, *, boot: float = 0.0, grow: int = 0) -> Iterator[Site]:
    """An application with two handlers. Raises ServerError."""
    server = Server("instar")
    site = Site(server)
    try:
        path = server.directory / "instar.toml"
        path.write_text(CONFIG.format(apps=APPS, port=server.port, work=work))
        server.start([str(INSTAR_VENV / "bin" / "instar"), "run", "-c", str(path)], site.environment(boot, grow))
        for name in NAMES:
            site.wait(name, 1)
        yield site
    finally:
        server.stop()


def command(site: Site, path: str, body: dict[str, object]) -> float:
    """Ask for something and wait for its end; seconds. Raises ServerError."""
    begun = time.monotonic()
    events = list(Client(site.server.directory / "state").stream("POST", path, body))
    if events[-1].get("outcome") != "done":
        raise ServerError(f"{path}: {events[-1].get('error')}")
    return time.monotonic() - begun


def renew(site: Site, result: Result, name: str) -> None:
    """One planned handover of one name."""
    result.totals.append(command(site, f"/v1/handlers/{name}/restart", {}))


def kill(site: Site, _result: Result, name: str) -> None:
    """SIGKILL for the holder."""
    os.kill(beats.holders(site.beats, name)[-1].pid, signal.SIGKILL)


def repeat(
    site: Site, result: Result, count: int, replace: Callable[[Site, Result, str], None], work: float = _WORK
) -> None:
    """Replace one handler `count` times."""
    name = NAMES[0]
    have = site.count(name)
    start = have - 1
    for _ in range(count):
        time.sleep(work)
        replace(site, result, name)
        have += 1
        site.wait(name, have)
    result.gaps += beats.gaps(beats.holders(site.beats, name)[start:])


def restart_all(site: Site, result: Result, count: int) -> None:
    """Restart the whole application, web workers and both handlers."""
    for _ in range(count):
        time.sleep(0.5)
        before = site.boots()
        have = {name: site.count(name) for name in NAMES}
        result.totals.append(command(site, "/v1/restart", {}))
        for name in NAMES:
            site.wait(name, have[name] + 1)
        result.boots.append(site.boots() - before)
    for name in NAMES:
        result.gaps += beats.gaps(beats.holders(site.beats, name))


# --- uWSGI --------------------------------------------------------------------------------------------------


def double_dance(site: Site, result: Result, count: int) -> None:
    """B without mules ends A, the Emperor starts A again, which ends B."""
    for _ in range(count):
        # The Emperor punishes a zergling that has never answered a request with a pause before it starts it again.
        site.server.answers(20)
        time.sleep(1.5)  # the running zergling has to have opened its next FIFO
        before = site.boots()
        result.totals.append(recipe.double_dance("uwsgi", site, _BOOT))
        result.boots.append(site.boots() - before)
    result.gaps += site.gaps()


# --- all ----------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Row:
    """What to measure, and how often."""

    name: str
    count: int
    quick: int
    measure: Callable[[Result, int], None]


def _warm(result: Result, count: int) -> None:
    with instar(WARM) as site:
        repeat(site, result, count, renew)


def _warm_killed(result: Result, count: int) -> None:
    with instar(WARM, grow=_GROWN) as site:
        repeat(site, result, count, kill, 0.2)


def _cold(result: Result, count: int) -> None:
    with instar(COLD) as site:
        repeat(site, result, count, renew)


def _cold_killed(result: Result, count: int) -> None:
    with instar(COLD) as site:
        repeat(site, result, count, kill)


def _whole(result: Result, count: int) -> None:
    with instar(WARM, boot=_BOOT) as site:
        restart_all(site, result, count)


def _dance(result: Result, count: int) -> None:
    with recipe.emperor("uwsgi", _BOOT) as site:
        double_dance(site, result, count)


ROWS = [
    Row("instar, warm handler replaced", 300, 10, _warm),
    Row(f"instar, warm handler of {_GROWN} MB killed (SIGKILL)", 100, 5, _warm_killed),
    Row("instar, cold program replaced", 50, 3, _cold),
    Row("instar, cold program killed (SIGKILL)", 30, 3, _cold_killed),
    Row("instar restart, application loads in 2 s", 5, 1, _whole),
    Row("uWSGI Emperor, zerg pool, mules, application loads in 2 s", 4, 1, _dance),
]


def cells(name: str, result: Result) -> list[str]:
    ordered = sorted(result.gaps)
    times = [f"{value * 1000:.1f}" for value in (*(percentile(ordered, share) for share in (0.5, 0.99)), ordered[-1])]
    total = f"{percentile(sorted(result.totals), 0.5):.2f}" if result.totals else "-"
    boots = f"{max(result.boots)}" if result.boots else "-"
    return [name, str(len(ordered)), *times, total, boots, f"{result.load}, {result.busy:.0%}"]


LEGEND = (
    "gap: from the last beat of a holder to the first of the next (a beat each 0.5 ms). `total`: median time from the "
    "command to its end; for a restart that includes draining. `loads`: how often the application was loaded for one "
    "restart. `load`: load average (1 min) and share of the CPUs in use. Aims for instar: warm p50 3 ms, "
    "p99 20 ms; killed p99 50 ms."
)


def run(options: Options) -> Report:
    """Measure all rows."""
    report = Report("handover", notes=servers.available())
    table = Table(
        "Time that a name is unheld", ["what", "gaps", "p50 ms", "p99", "max", "total s", "loads", "load, CPU"]
    )
    for row in ROWS:
        if not options.wants(row.name):
            continue
        say(f"handover: {row.name}")
        result, meter = Result(), machine.BusyMeter()
        try:
            row.measure(result, row.quick if options.quick else row.count)
        except ServerError as error:
            result.problem = str(error)
            report.notes.append(f"{row.name}: {error}")
        result.load, result.busy = machine.load_average().split()[0], meter.read()["busy"]
        if result.gaps:
            table.rows.append(cells(row.name, result))
        report.data.append({"row": row.name, **dataclasses.asdict(result)})
        if overlaps := [gap for gap in result.gaps if gap < 0]:
            report.notes.append(f"{row.name}: {len(overlaps)} times two holders were at work at once")
    report.tables.append(table)
    report.notes.append(LEGEND)
    return report


if __name__ == "__main__":
    main(run, __doc__)
