"""A site with mules is restarted: by uWSGI's recipe on uWSGI, by the same files on instar, and by instar's own file.

`python -m bench.dance [--quick] [--json] [--only PART]`

The recipe (bench/recipe) has an Emperor, a zerg pool, a zergling with two mules, and a second file for the "double
dance". The application loads in 2 s and holds 100 MB. All ways take turns, in two rounds; each restart is made under
load, and one more without any, for the memory.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any

from bench.common import load, machine, recipe, servers
from bench.common.paths import INSTAR_VENV
from bench.common.process import Server, ServerError
from bench.common.recipe import NAMES, Site
from bench.common.report import Options, Report, Table, main, say
from bench.common.stats import percentile
from bench.memory import Peak

BOOT = 2.0
BALLAST = 100
#: Seconds of load before each restart: what the answers take without one. A zergling of uWSGI needs 1.5 to be ready.
STEADY = 2.0


@dataclasses.dataclass(frozen=True)
class Way:
    """How the site runs, and how it is restarted; `restart` returns the seconds until its end."""

    name: str
    run: Callable[[], AbstractContextManager[Site]]
    restart: Callable[[Site], float]


@dataclasses.dataclass
class Result:
    """Of one way; times in seconds, sizes in MB."""

    before: list[load.Sample] = dataclasses.field(default_factory=list)
    during: list[load.Sample] = dataclasses.field(default_factory=list)
    pauses: list[float] = dataclasses.field(default_factory=list)
    totals: list[float] = dataclasses.field(default_factory=list)
    boots: list[int] = dataclasses.field(default_factory=list)
    resting: list[float] = dataclasses.field(default_factory=list)
    peaks: list[float] = dataclasses.field(default_factory=list)
    loads: list[str] = dataclasses.field(default_factory=list)
    busy: list[float] = dataclasses.field(default_factory=list)
    problem: str = ""


# --- ways ---------------------------------------------------------------------------------------------------


def on_uwsgi() -> AbstractContextManager[Site]:
    return recipe.emperor("uwsgi", BOOT, BALLAST)


def on_instar() -> AbstractContextManager[Site]:
    return recipe.emperor("instar", BOOT, BALLAST)


@contextlib.contextmanager
def converted(handlers: str = "") -> Iterator[Site]:
    """What `instar convert` makes of the recipe; `handlers` replaces the lines that say what the handlers run."""
    server = Server("instar")
    site = Site(server)
    try:
        zergling = recipe.write(server) / "zergling.yml"
        path = server.directory / "instar.toml"
        _instar(site, "convert", str(zergling), "-o", str(path))
        if handlers:
            lines = [line for line in path.read_text().splitlines() if not line.startswith(("script =", "handover ="))]
            path.write_text("\n".join([*lines, handlers, ""]))
        argv = [str(INSTAR_VENV / "bin" / "instar"), "run", "-c", str(path)]
        server.start(argv, site.environment(BOOT, ballast=BALLAST))
        for name in NAMES:
            site.wait(name, 1)
        yield site
    finally:
        server.stop()


def converted_warm() -> AbstractContextManager[Site]:
    return converted('target = "handover_app:handler"')


def dance_on_uwsgi(site: Site) -> float:
    return recipe.double_dance("uwsgi", site, BOOT, BALLAST)


def dance_on_instar(site: Site) -> float:
    return recipe.double_dance("instar", site, BOOT, BALLAST)


def restart_vassal(site: Site) -> float:
    return _restart(site, "zergling", "--emperor", str(site.server.directory / "vassals"))


def restart_native(site: Site) -> float:
    return _restart(site, "-c", str(site.server.directory / "instar.toml"))


def _restart(site: Site, *arguments: str) -> float:
    begun = time.monotonic()
    have = {name: site.count(name) for name in NAMES}
    answer = json.loads(_instar(site, "restart", "--json", *arguments).splitlines()[-1])
    if answer.get("outcome") != "done":
        raise ServerError(f"instar restart: {answer.get('error')}")
    for name in NAMES:
        site.wait(name, have[name] + 1)
    return time.monotonic() - begun


def _instar(site: Site, *arguments: str) -> str:
    """What a command of instar says. Raises ServerError."""
    argv = [str(INSTAR_VENV / "bin" / "instar"), *arguments]
    env = {**os.environ, **servers.instar_env(site.server.directory)}
    done = subprocess.run(argv, env=env, capture_output=True, text=True, check=False, timeout=120)
    if done.returncode:
        raise ServerError(f"instar {arguments[0]}: exit code {done.returncode}: {(done.stderr or done.stdout)[-300:]}")
    return done.stdout


WAYS = [
    Way("uWSGI, recipe: double dance", on_uwsgi, dance_on_uwsgi),
    Way("instar, recipe: double dance", on_instar, dance_on_instar),
    Way("instar, recipe: `instar restart`", on_instar, restart_vassal),
    Way("instar.toml converted: `instar restart`", converted, restart_native),
    Way("the same, handlers written for instar", converted_warm, restart_native),
]


# --- measuring ----------------------------------------------------------------------------------------------


def run_round(way: Way, restarts: int, result: Result) -> None:
    """One way's turn. Raises ServerError; what was measured until then is kept."""
    load_before, meter = machine.load_average().split()[0], machine.BusyMeter()
    with way.run() as site:
        spans: list[tuple[float, float, float]] = []
        with load.running(site.server.port) as clients:
            time.sleep(1.0)  # the clients connect
            try:
                for _ in range(restarts):
                    spans.append(_one(way, site, result))
            finally:
                result.pauses += site.gaps()
        for begin, middle, end in spans:
            result.before += clients.between(begin, middle)
            result.during += clients.between(middle, end)
        result.loads.append(load_before)
        result.busy.append(meter.read()["busy"])
        _memory(way, site, result)


def _one(way: Way, site: Site, result: Result) -> tuple[float, float, float]:
    """One restart under load: when the time before it, the restart, and the time after it began."""
    begin, boots = time.monotonic(), site.boots()
    time.sleep(STEADY)
    middle = time.monotonic()
    result.totals.append(way.restart(site))
    time.sleep(0.5)  # an answer that is late still counts
    result.boots.append(site.boots() - boots)
    return begin, middle, time.monotonic()


def _memory(way: Way, site: Site, result: Result) -> None:
    """Apart from the load, because looking at a process's memory stops it for a moment."""
    site.server.answers(20)
    time.sleep(STEADY)
    result.resting.append(site.server.tree.pss())
    with Peak(site.server.tree) as peak:
        way.restart(site)
    result.peaks.append(peak.megabytes)


COLUMNS = [
    "what", "restarts", "requests", "failed", "how", "new conn.", "before", "longest ms", "before",
    "pause p50 ms", "max", "loads", "total s", "rest MB", "peak MB", "load, CPU",
]  # fmt: skip


def cells(name: str, result: Result) -> list[str]:
    before, during = load.summarize(result.before), load.summarize(result.during)
    pauses, totals = sorted(result.pauses), sorted(result.totals)
    how = ", ".join(f"{count} {kind}" for kind, count in during.failures.items()) or "-"
    failed = [str(during.failed), how, str(during.by_client.get("new", 0)), f"{before.failed} of {before.requests}"]
    times = [during.max, before.max, percentile(pauses, 0.5), pauses[-1] if pauses else float("nan")]
    sizes = [f"{max(values, default=float('nan')):.0f}" for values in (result.resting, result.peaks)]
    return [
        name, str(len(totals)), str(during.requests), *failed, *(f"{value * 1000:.1f}" for value in times),
        str(max(result.boots, default=0)), f"{percentile(totals, 0.5):.2f}", *sizes,
        f"{' '.join(result.loads)}, {max(result.busy, default=0):.0%}",
    ]  # fmt: skip


def row(name: str, result: Result) -> dict[str, Any]:
    counted = {key: dataclasses.asdict(load.summarize(getattr(result, key))) for key in ("before", "during")}
    return {"way": name, **dataclasses.asdict(dataclasses.replace(result, before=[], during=[])), **counted}


LEGEND = (
    "`failed`: requests during the restarts, of which `new conn.` on connections of their own; `before`: the same in "
    f"the {STEADY:.0f} s before each restart. The recipe's `http` of uWSGI keeps no connection alive and closes it "
    "without saying so; a client that has just sent its next request on one fails, restart or not. `pause`: from a "
    "handler's last sign to the first of the next one under its name (a beat each 0.5 ms). `loads`: how often the "
    "application was loaded for one restart. `total`: median time from the command to its end, with both handlers at "
    f"work and the old processes gone. Memory: PSS of all processes, the application holds {BALLAST} MB; a restart of "
    "its own, without load. `load`: load average (1 min) before each round, and share of the CPUs in use."
)


def run(options: Options) -> Report:
    """All ways in turn, twice, the second time in reverse order."""
    report = Report("dance", notes=servers.available())
    ways = [way for way in WAYS if options.wants(way.name)]
    results = {way.name: Result() for way in ways}
    rounds, restarts = (1, 1) if options.quick else (2, 3)
    for number in range(rounds):
        for way in ways if number % 2 == 0 else reversed(ways):
            say(f"dance: round {number + 1}: {way.name}")
            try:
                run_round(way, restarts, results[way.name])
            except ServerError as error:
                results[way.name].problem = str(error)
                report.notes.append(f"{way.name}: {error}")
    table = Table(f"Restart of a site with two mules; the application loads in {BOOT:g} s", COLUMNS)
    table.rows = [cells(name, result) for name, result in results.items() if result.totals]
    report.tables.append(table)
    report.data = [row(name, result) for name, result in results.items()]
    for name, result in results.items():
        if overlaps := [pause for pause in result.pauses if pause < 0]:
            report.notes.append(f"{name}: {len(overlaps)} times two holders were at work at once")
    report.notes.append(LEGEND)
    return report


if __name__ == "__main__":
    main(run, __doc__)
