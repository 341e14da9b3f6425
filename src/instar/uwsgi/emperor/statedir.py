"""Where Emperors keep their state: one folder each, found by the directory that it runs."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from instar.config.state import state_dir
from instar.supervisor.statedir import StateDir

#: In the folder that holds the state directories of the applications.
_FOLDER = ".emperors"
#: Names the directory that the Emperor runs.
_NAME = "directory"


def base() -> Path:
    """The folder of all Emperors of this user (`$INSTAR_STATE_DIR/.emperors`, `/run/instar/.emperors` …)."""
    if told := os.environ.get("INSTAR_STATE_DIR"):
        return Path(told).absolute() / _FOLDER
    return state_dir("x").parent / _FOLDER


def emperor_state(directory: Path) -> StateDir:
    """The state directory of the Emperor of a directory, not created."""
    digest = hashlib.sha256(os.fsencode(directory.resolve())).hexdigest()[:16]
    return StateDir(base() / digest)


def create(directory: Path) -> StateDir:
    """The same, created. Raises InstarError."""
    state = emperor_state(directory)
    state.create(None, None)
    output_folder(state).mkdir(mode=0o700, exist_ok=True)
    (state.control / _NAME).write_text(f"{directory.resolve()}\n")
    return state


def output_folder(state: StateDir) -> Path:
    """For the output of the vassals."""
    return state.output / "vassals"


def emperors() -> list[tuple[Path, StateDir]]:
    """(directory, state) of all that this user has run, whether they run now or not."""
    found = []
    for folder in sorted(base().glob("*/control/" + _NAME)):
        found.append((Path(folder.read_text().rstrip("\n")), StateDir(folder.parent.parent)))
    return found
