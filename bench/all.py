"""All benchmarks, one after the other; `--write` puts the measured tables into a document.

`python -m bench.all [--quick] [--json] [--only PART] [--program NAME] [--write docs/benchmarks.md]`

Installs the peers first (bench/setup). The document keeps its own text: only what stands between a pair of markers,
`<!-- measured NAME -->` and `<!-- end NAME -->`, is replaced, as soon as a program has ended.
"""

from __future__ import annotations

import argparse
import dataclasses
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

from bench import blocked, dance, handover, memory, restart, throughput
from bench.common import machine
from bench.common.paths import ROOT
from bench.common.report import Options, Report, measure, parser, print_json, say
from bench.jobs import program as jobs

PROGRAMS = {
    "restart": restart.run,
    "handover": handover.run,
    "dance": dance.run,
    "throughput": throughput.run,
    "blocked": blocked.run,
    "memory": memory.run,
    "jobs": jobs.run,
}


def arguments() -> argparse.Namespace:
    result = parser(__doc__)
    result.add_argument("--write", type=Path, metavar="FILE", help="the document to put the tables into")
    result.add_argument("--program", action="append", choices=list(PROGRAMS), help="only this program (repeatable)")
    return result.parse_args()


def replace(document: Path, name: str, text: str) -> None:
    """Put `text` between the markers of `name`; says so when the document has none."""
    begin, end = f"<!-- measured {name} -->", f"<!-- end {name} -->"
    pattern = re.compile(f"{re.escape(begin)}.*?{re.escape(end)}", re.DOTALL)
    old = document.read_text()
    if not pattern.search(old):
        say(f"bench: {document} has no place for {name}: add the lines {begin} and {end}")
        return
    document.write_text(pattern.sub(lambda _: f"{begin}\n{text}\n{end}", old))


def machine_markdown(facts: dict[str, Any]) -> str:
    """The machine, the versions and the command, which makes every table (one alone with `--program`)."""
    command = shlex.join(["python", "-m", "bench.all", *_without_program(sys.argv[1:])])
    versions = {**facts["versions"]["peers"], **facts["versions"]["instar"]}
    shown = ", ".join(f"{name} {version}" for name, version in sorted(versions.items()))
    return (
        f"`{command}`, {facts['date']}, commit {facts['commit']}\n\n"
        f"{facts['cpus']} CPUs ({facts['cpu']}), {facts['memory_gb']} GB, Linux {facts['kernel']}, "
        f"Python {facts['python']}; {shown}."
    )


def _without_program(words: list[str]) -> list[str]:
    return [word for place, word in enumerate(words) if "--program" not in words[max(0, place - 1) : place + 1]]


def report_markdown(report: Report) -> str:
    return f"{report.markdown()}\n\nMeasured {machine.describe()['date']}."


def main() -> None:
    """`python -m bench.all` and `python -m bench`."""
    wanted = arguments()
    subprocess.run([ROOT / "bench" / "setup"], check=True, stdout=sys.stderr)
    facts = machine.describe()
    if wanted.write:
        replace(wanted.write, "machine", machine_markdown(facts))
    reports = []
    for name in wanted.program or PROGRAMS:
        report = measure(PROGRAMS[name], Options(wanted.quick, tuple(wanted.only)))
        reports.append(report)
        if wanted.write:
            replace(wanted.write, name, report_markdown(report))
        if not wanted.json:
            print(f"## {name}\n\n{report.markdown()}\n", flush=True)
    if wanted.json:
        print_json({"machine": facts, "reports": [dataclasses.asdict(report) for report in reports]})
    else:
        print(machine_markdown(facts))


if __name__ == "__main__":
    main()
