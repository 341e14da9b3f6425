"""The recipe's site in a temporary folder, and the program's own command line."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

# The helpers beside this file are imported by name.
sys.path.insert(0, str(Path(__file__).parent))

RECIPE = Path(__file__).parents[1] / "uwsgi_config/fixtures"


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """The recipe's files where their paths lead."""
    for name in ("config", "vassals", "var/zerg", "server/lib/galaxy", "server/static/style/blue", "server/.venv/bin"):
        (tmp_path / name).mkdir(parents=True)
    for file in RECIPE.iterdir():
        folder = "vassals" if file.name.startswith("vassal") else "config"
        (tmp_path / folder / file.name).write_text(file.read_text().replace("/srv/galaxy", str(tmp_path)))
    (tmp_path / "server/.venv/bin/python").symlink_to(sys.executable)
    (tmp_path / "server/lib/galaxy/main.py").touch()
    return tmp_path


class Answer:
    """What `instar …` said."""

    def __init__(self, done: subprocess.CompletedProcess[str]) -> None:
        self.code = done.returncode
        self.out = done.stdout
        self.err = done.stderr

    @property
    def json(self) -> Any:
        return json.loads(self.out)


@pytest.fixture
def instar(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Answer]:
    """Runs a command in the temporary folder."""
    monkeypatch.setenv("INSTAR_STATE_DIR", str(tmp_path / "state"))

    def run(*arguments: str | Path, cwd: Path = tmp_path) -> Answer:
        command = [sys.executable, "-m", "instar", *map(str, arguments)]
        return Answer(subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=60))

    return run
