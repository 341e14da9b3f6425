from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from instar.config import Config, expand_command, resolve_python
from instar.errors import ConfigError

Read = Callable[..., Config]
APP = "[app]\ntarget = 'm:a'\n"


def make_venv(folder: Path) -> Path:
    python = folder / "bin/python"
    python.parent.mkdir(parents=True)
    (folder / "pyvenv.cfg").touch()
    python.symlink_to(sys.executable)
    return python


def test_ours_when_there_is_no_other(read: Read) -> None:
    assert resolve_python(read(APP)) == Path(sys.executable)


def test_the_environment_in_chdir_is_kept_as_a_link(project: Path, read: Read) -> None:
    second = make_venv(project / "site/venv")
    config = read(APP + "chdir = 'site'")
    assert resolve_python(config) == second
    first = make_venv(project / "site/.venv")
    assert resolve_python(config) == first


def test_the_configured_one_wins(project: Path, read: Read) -> None:
    make_venv(project / ".venv")
    other = make_venv(project / "other")
    assert resolve_python(read(APP + "python = 'other/bin/python'")) == other


def test_a_command_is_looked_up(project: Path, read: Read, monkeypatch: pytest.MonkeyPatch) -> None:
    python = make_venv(project / "other")
    monkeypatch.setenv("PATH", str(python.parent))
    assert resolve_python(read(APP + "python = 'python'")) == python
    with pytest.raises(ConfigError, match=r"no command python9\.9 in PATH"):
        resolve_python(read(APP + "python = 'python9.9'"))


def test_a_broken_environment_is_an_error_and_not_passed_over(project: Path, read: Read) -> None:
    make_venv(project / ".venv").unlink()
    with pytest.raises(ConfigError, match=r"\.venv: there is no interpreter"):
        resolve_python(read(APP))


def test_not_executable(project: Path, read: Read) -> None:
    (project / "python").touch(0o644)
    with pytest.raises(ConfigError, match="not executable"):
        resolve_python(read(APP + "python = './python'"))


def test_expand_command() -> None:
    assert expand_command(("{python}", "-m", "x{python}"), Path("/p")) == ["/p", "-m", "x/p"]
