"""The application's interpreter."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

from instar.config.here import current_folder
from instar.config.model import Config
from instar.errors import ConfigError

#: Names of a virtual environment in the application's folder, in this order.
ENVIRONMENTS = (".venv", "venv")


def resolve_python(config: Config) -> Path:
    """`[app] python`, else that of a virtual environment in `chdir`, else our own (absolute).

    Links are kept: a virtual environment's interpreter is one, and behaves otherwise under its real name.
    Raises ConfigError when the configured one, or that of an existing environment, can't be run.
    """
    if config.app.python is not None:
        return _configured(config.app.python)
    for name in ENVIRONMENTS:
        folder = config.app.chdir / name
        if (folder / "pyvenv.cfg").is_file():
            return _runnable(folder / "bin/python", f"the virtual environment {folder}")
    return Path(sys.executable)


def _configured(python: Path) -> Path:
    if python.is_absolute():
        return _runnable(python, "[app] python")
    found = shutil.which(str(python))
    if found is None:
        raise ConfigError(f"cannot use [app] python: no command {python} in PATH; write the interpreter's whole path")
    return current_folder() / found


def _runnable(python: Path, what: str) -> Path:
    if not python.is_file():
        raise ConfigError(f"cannot use {what}: there is no interpreter at {python}; make it anew or set [app] python")
    if not os.access(python, os.X_OK):
        raise ConfigError(f"cannot use {what}: {python} is not executable")
    return python


def expand_command(command: tuple[str, ...], python: Path) -> list[str]:
    """The argv of a hook or a service: `{python}` is replaced by the application's interpreter."""
    return [word.replace("{python}", str(python)) for word in command]
