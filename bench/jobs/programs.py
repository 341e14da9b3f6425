"""Programs as jobs: what a shim that outlives its handler costs, beside a plain subprocess."""

from __future__ import annotations

import statistics
import tempfile
from pathlib import Path

from bench.common.report import Report, Table
from bench.jobs_local import Bench, plain


def run(report: Report, *, quick: bool) -> None:
    """Add a table to the report."""
    count = 20 if quick else 200
    with tempfile.TemporaryDirectory(prefix="bench-jobs-") as folder:
        bench = Bench(Path(folder))
        try:
            bench.one("warm-up", "/bin/true")
            found = [(plain(), *bench.one(f"true-{number}", "/bin/true")) for number in range(count)]
            memory = bench.private_memory()
        finally:
            bench.close()
    table = Table("A program as a job, on the disk (`/bin/true`)", ["what", "p50 ms", "best"])
    names = (
        "plain subprocess, to its end",
        "local runner: asked, and the program has begun",
        "its end is recorded and heard of",
    )
    for name, values in zip(names, zip(*found, strict=True), strict=True):
        table.rows.append([name, f"{statistics.median(values) * 1000:.1f}", f"{min(values) * 1000:.1f}"])
    report.tables.append(table)
    report.notes.append(
        f"A program's shim has {memory / 1e6:.1f} MB of its own. Aims: begun within 5 ms, at most 3 MB."
    )
    report.data.append({"programs": found, "shim_bytes": memory})
