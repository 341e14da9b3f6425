"""Where things are."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
APPS = ROOT / "bench" / "apps"
INSTAR_VENV = ROOT / ".venv"
BENCH_VENV = ROOT / ".venv-bench"
