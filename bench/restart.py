"""Requests that fail, and how long the others wait, while a server is restarted under load.

`python -m bench.restart [--quick] [--json] [--only PART]`

Each server runs with two workers and the same application (loading takes 0 s or 2 s), is left alone for some seconds
and is then restarted again and again. Servers take turns: every case is run in two rounds, the second in reverse order.
"""

from __future__ import annotations

import dataclasses
import time
from typing import Any

from bench.common import load, restarts, servers
from bench.common.process import Server, ServerError
from bench.common.report import Options, Report, Table, main, say
from bench.common.stats import quartiles


@dataclasses.dataclass(frozen=True)
class Case:
    """One way to restart one server."""

    name: str
    kind: servers.Kind
    action: restarts.Action


CASES = [
    Case("instar granian (wsgi)", servers.INSTAR_GRANIAN_WSGI, restarts.instar),
    Case("instar granian (asgi)", servers.INSTAR_GRANIAN_ASGI, restarts.instar),
    Case("instar uvicorn", servers.INSTAR_UVICORN, restarts.instar),
    Case("instar gunicorn gthread", servers.INSTAR_GUNICORN, restarts.instar),
    Case("gunicorn gthread HUP", servers.GUNICORN, restarts.hup),
    Case("gunicorn gthread USR2+TERM", servers.GUNICORN, restarts.usr2_term),
    Case("uvicorn HUP", servers.UVICORN, restarts.hup),
    Case("granian (wsgi) HUP", servers.GRANIAN_WSGI, restarts.hup),
    Case("granian (asgi) HUP", servers.GRANIAN_ASGI, restarts.hup),
    Case("hypercorn HUP", servers.HYPERCORN, restarts.hup),
    Case("uWSGI http router HUP", servers.UWSGI_ROUTER, restarts.hup),
    Case("uWSGI http router chain reload", servers.UWSGI_ROUTER_CHAIN, restarts.chain),
    Case("uWSGI http11-socket HUP", servers.UWSGI_HTTP11, restarts.hup),
]


@dataclasses.dataclass(frozen=True)
class Plan:
    """How long to measure."""

    boot: float
    rounds: int = 2
    #: Restarts in each round, for all but the slow.
    restarts: int = 5
    #: Seconds without a restart, in each round.
    steady: float = 4.0
    #: No further restart of a peer begins after so many seconds of a round.
    budget: float = 6.0
    #: Seconds between two restarts.
    pause: float = 0.3


@dataclasses.dataclass
class Result:
    """One case, all rounds."""

    steady: list[load.Sample] = dataclasses.field(default_factory=list)
    during: list[load.Sample] = dataclasses.field(default_factory=list)
    restarts: list[restarts.Restart] = dataclasses.field(default_factory=list)
    problem: str = ""


def run_round(case: Case, plan: Plan, result: Result) -> None:
    """One server's turn. A server that fails to come back keeps what was measured until then."""
    with servers.running(case.kind, boot=plan.boot) as server:
        with load.running(server.port) as clients:
            time.sleep(1.0)  # the clients connect
            begin = time.monotonic()
            time.sleep(plan.steady)
            middle = time.monotonic()
            try:
                restart_repeatedly(case, plan, server, result)
            except ServerError as error:
                result.problem = str(error)
            time.sleep(0.5)  # an answer that is late still counts
            end = time.monotonic()
        result.steady += clients.between(begin, middle)
        result.during += clients.between(middle, end)


def restart_repeatedly(case: Case, plan: Plan, server: Server, result: Result) -> None:
    """The restarts of one round."""
    begun = time.monotonic()
    for _ in range(plan.restarts):
        if time.monotonic() - begun > plan.budget and not case.kind.is_instar:
            return
        result.restarts.append(restarts.perform(server, case.action))
        time.sleep(plan.pause)


def run_plan(plan: Plan, cases: list[Case], report: Report) -> None:
    """All cases with one boot time; adds the tables and the data."""
    results = {case.name: Result() for case in cases}
    for number in range(plan.rounds):
        for case in cases if number % 2 == 0 else reversed(cases):
            say(f"restart: boot {plan.boot:g} s, round {number + 1}: {case.name}")
            try:
                run_round(case, plan, results[case.name])
            except ServerError as error:
                results[case.name].problem = str(error)
    report.tables.append(failures_table(plan, results))
    report.data += [row(name, plan, result) for name, result in results.items()]
    report.notes += [f"{name}, boot {plan.boot:g} s: {r.problem}" for name, r in results.items() if r.problem]
    if stages := stages_table(plan, results):
        report.tables.append(stages)


COLUMNS = [
    "server, restart", "restarts", "requests", "failed", "how", "dropped", "steady p50 ms", "p99", "max",
    "restarting p50 ms", "p99", "max", "max ratio", "switch s", "over s",
]  # fmt: skip


def failures_table(plan: Plan, results: dict[str, Result]) -> Table:
    title = f"Application that loads in {plan.boot:g} s"
    return Table(title, COLUMNS, [cells(name, result) for name, result in results.items() if result.during])


def cells(name: str, result: Result) -> list[str]:
    steady, during = load.summarize(result.steady), load.summarize(result.during)
    how = ", ".join(f"{count} {kind}" for kind, count in during.failures.items()) or "-"
    times = [f"{value * 1000:.1f}" for s in (steady, during) for value in (s.p50, s.p99, s.max)]
    switched = quartiles([restart.switched for restart in result.restarts])[1]
    total = quartiles([restart.total for restart in result.restarts])[1]
    head = [name, str(len(result.restarts)), str(during.requests), str(during.failed), how, str(during.dropped)]
    return [*head, *times, f"{during.max / steady.max:.1f}", f"{switched:.2f}", f"{total:.2f}"]


def stages_table(plan: Plan, results: dict[str, Result]) -> Table | None:
    """instar: the median of each stage, and what a restart takes beyond loading the application and draining."""
    rows = {name: result.restarts for name, result in results.items() if any(r.stages for r in result.restarts)}
    if not rows:
        return None
    names = list(dict.fromkeys(stage for found in rows.values() for restart in found for stage in restart.stages))
    title = f"instar, stages of a restart in s (median); the application loads in {plan.boot:g} s"
    table = Table(title, ["engine", *names, "beyond load and drain"])
    for name, found in rows.items():
        medians = [quartiles([restart.stages.get(stage, 0.0) for restart in found])[1] for stage in names]
        beyond = quartiles([beyond_load_and_drain(restart, plan.boot) for restart in found])[1]
        table.rows.append([name, *(f"{value:.2f}" for value in [*medians, beyond])])
    return table


def beyond_load_and_drain(restart: restarts.Restart, boot: float) -> float:
    """In seconds. The old generation drains during the grace period, too."""
    drained = restart.stages.get("grace", 0.0) + restart.stages.get("drain", 0.0)
    return restart.stages["command"] - boot - drained


def row(name: str, plan: Plan, result: Result) -> dict[str, Any]:
    return {
        "case": name,
        "boot": plan.boot,
        "steady": dataclasses.asdict(load.summarize(result.steady)),
        "during": dataclasses.asdict(load.summarize(result.during)),
        "restarts": [dataclasses.asdict(restart) for restart in result.restarts],
        "problem": result.problem,
    }


LEGEND = (
    "`max ratio`: the longest answer while restarting, as a multiple of the longest before. `switch`: until only the "
    "new application answers new connections; `over`: until the old processes are gone, too (medians). Failures: "
    "refused, connect (no connection), reset, closed (no byte of an answer), cut (part of one), timeout (15 s), "
    "status. `dropped`: idle connections closed without an announcement, found before sending."
)


def run(options: Options) -> Report:
    """Measure all cases, with a fast and a slow application."""
    report = Report("restart", notes=servers.available())
    cases = [case for case in CASES if options.wants(case.name)]
    for boot in (0.0, 2.0):
        plan = Plan(boot, rounds=1, restarts=2, steady=2.0, budget=3.0) if options.quick else Plan(boot)
        run_plan(plan, cases, report)
    report.notes.append(LEGEND)
    return report


if __name__ == "__main__":
    main(run, __doc__)
