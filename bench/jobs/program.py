"""Jobs per second and the wait of one job, of instar and of other queues, on SQLite, PostgreSQL and Redis.

`python -m bench.jobs [--quick] [--json] [--only PART]`

All of them run the same function, which does nothing but say when it began, ten at a time, on fresh stores with the
settings that are printed. The rounds go over all contenders, so that a noisy machine disturbs all alike; medians are
shown.
"""

from __future__ import annotations

import contextlib
import dataclasses
import statistics
import time
from typing import Any

from bench.common.paths import INSTAR_VENV
from bench.common.process import ServerError
from bench.common.report import Options, Report, Table, main, say
from bench.common.stats import percentile
from bench.jobs import programs
from bench.jobs.contenders import CONCURRENCY, CONTENDERS, INSTAR, RAW, Contender, Store
from bench.jobs.trial import Result, Size, attempt

_FULL, _QUICK = Size(), Size(single=100, share=0.05, trickle=20)
_ROUNDS = 3
#: Seconds for all rounds.
_BUDGET = 450
_LOOP_AIM, _START_AIM = 0.6, 5.0

LEGEND = (
    "`enqueue`: jobs per second from one process that sends one at a time, each stored before the next, and with the "
    f"library's call for many (1000 at once; `-`: it has none). `jobs/s`: no-op functions run through by one worker, "
    f"{CONCURRENCY} at a time, counted from the first beginning to the last; afterwards each was found on record as "
    "done, and to have run once. `CPU`: of the worker's processes for each job, without the database's. `start`: from "
    "before one job is sent to an idle worker until its function begins, every 15 to 45 ms. instar is a whole `instar "
    "run` with a handler."
)
RAW_LEGEND = (
    f"`raw loop`: the statements by hand, on the smallest table, in batches of {CONCURRENCY}, two commits for each "
    "batch; no threads, no destinations, no retries. It is what the store can do."
)


@dataclasses.dataclass
class Runs:
    """What the rounds of one contender have given."""

    contender: Contender
    #: By round.
    found: dict[int, Result] = dataclasses.field(default_factory=dict)

    @property
    def results(self) -> list[Result]:
        """Of all rounds."""
        return list(self.found.values())

    def median(self, field: str) -> float | None:
        """Of the rounds; None where it has no such thing."""
        values = [value for result in self.results if (value := getattr(result, field)) is not None]
        return statistics.median(values) if values else None

    def latencies(self) -> list[float]:
        """All of them, in order."""
        return sorted(value for result in self.results for value in result.latencies)

    def start(self, share: float) -> float:
        """A percentile in ms; NaN if there is none."""
        return percentile(self.latencies(), share) * 1000


def run(options: Options) -> Report:
    """Measure all contenders that there are."""
    report = Report("jobs")
    wanted = [contender for contender in CONTENDERS if options.wants(contender.name)]
    everything = [Runs(contender) for contender in wanted]
    with contextlib.ExitStack() as stack:
        stores = _open({runs.contender.store.name: runs.contender.store for runs in everything}, stack, report)
        ready = [runs for runs in everything if runs.contender.store.name in stores]
        begun = time.monotonic()
        for number in range(1 if options.quick else _ROUNDS):
            if number and (time.monotonic() - begun) * (number + 1) / number > _BUDGET:
                report.notes.append(f"{number} of {_ROUNDS} rounds: the machine was too slow for more in {_BUDGET} s.")
                break
            for runs in ready:
                make = stores[runs.contender.store.name]
                _round(runs, make, number, _QUICK if options.quick else _FULL, report)
    measured = [runs for runs in ready if runs.results]
    report.tables += [_promises(measured), _figures(measured), _ratios(measured)]
    report.notes += [LEGEND, RAW_LEGEND]
    report.data += [_data(runs) for runs in measured]
    if options.wants("local program"):
        programs.run(report, quick=options.quick)
    return report


def _open(stores: dict[str, Store], stack: contextlib.ExitStack, report: Report) -> dict[str, Any]:
    opened = {}
    for name, store in stores.items():
        try:
            opened[name] = stack.enter_context(store.open())
        except ServerError as error:
            report.notes.append(f"{name}: {error}")
    return opened


def _round(runs: Runs, make: Any, number: int, size: Size, report: Report) -> None:
    contender = runs.contender
    say(f"jobs: {contender.name}, round {number + 1}")
    if not (contender.venv / "bin" / "python").exists():
        raise ServerError(f"no {contender.venv}: run bench/setup" if contender.venv != INSTAR_VENV else "no .venv")
    try:
        runs.found[number] = attempt(contender, make, f"{contender.key}_{number}", size)
    except ServerError as error:
        report.notes.append(str(error))


def _promises(measured: list[Runs]) -> Table:
    table = Table("Settings and promises", ["queue", "worker", "commits", "record of an end", "killed worker's job"])
    for runs in measured:
        given = runs.contender
        table.rows.append([given.name, given.workers, given.commits, given.record, given.killed])
    return table


def _figures(measured: list[Runs]) -> Table:
    columns = ["queue", "enqueue/s", "in batches/s", "jobs/s", "CPU µs/job", "start p50 ms", "p99"]
    table = Table("Jobs that do nothing", columns)
    for runs in measured:
        cpu = runs.median("cpu")
        table.rows.append(
            [
                runs.contender.name,
                _whole(runs.median("single")),
                _whole(runs.median("batch")),
                _whole(runs.median("rate")),
                _whole(cpu * 1e6 if cpu else None),
                *(f"{runs.start(share):.1f}" if runs.latencies() else "-" for share in (0.5, 0.99)),
            ]
        )
    return table


def _ratios(measured: list[Runs]) -> Table:
    """instar as a multiple of each of the others: on the same store if it is there, else on SQLite."""
    table = Table("instar as a multiple", ["instar / other", "aim", "jobs/s", "enqueue/s", "start p50"])
    ours = {runs.contender.store.name: runs for runs in measured if runs.contender.library == INSTAR}
    for runs in measured:
        other = runs.contender
        # Redis is nothing that instar has; the others are compared on the same store or not at all.
        mine = ours.get("SQLite" if other.store.name.startswith("Redis") else other.store.name)
        if other.library == INSTAR or mine is None:
            continue
        aim = f"≥ {_LOOP_AIM}" if other.library == RAW else "> 1" if other.durable else ""
        start = f"{mine.start(0.5) / runs.start(0.5):.2f}" if runs.latencies() else "-"
        shares = [f"{_share(mine, runs, field):.2f}" for field in ("rate", "single")]
        table.rows.append([f"{mine.contender.name} / {other.name}", aim, *shares, start])
    for runs in ours.values():
        aim = f"start ≤ {_START_AIM:g} ms"
        table.rows.append([runs.contender.name, aim, "", "", f"{runs.start(0.5):.1f} ms"])
    return table


def _share(mine: Runs, other: Runs, field: str) -> float:
    """The median of the ratios of the rounds, each of which saw the same weather."""
    both = mine.found.keys() & other.found.keys()
    ratios = [getattr(mine.found[each], field) / getattr(other.found[each], field) for each in both]
    return statistics.median(ratios) if ratios else float("nan")


def _whole(value: float | None) -> str:
    return "-" if value is None else f"{value:.0f}"


def _data(runs: Runs) -> dict[str, Any]:
    return {
        "queue": runs.contender.name,
        "durable": runs.contender.durable,
        "rounds": [dataclasses.asdict(result) for result in runs.results],
    }


if __name__ == "__main__":
    main(run, __doc__)
