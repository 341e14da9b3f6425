"""What is found out about the interpreter of a site that was made for uWSGI."""

from __future__ import annotations

import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from instar.config import load
from instar.errors import ConfigError
from instar.uwsgi import interpreter

Python = Callable[..., Path]


@pytest.fixture
def python(tmp_path: Path) -> Python:
    """A program that prints these lines, in the place of a virtual environment's interpreter."""

    def make(*lines: str, errors: str = "", status: int = 0) -> Path:
        path = tmp_path / "python"
        said = "".join(f"echo '{line}'\n" for line in lines)
        path.write_text(f"#!/bin/sh\n{said}echo '{errors}' >&2\nexit {status}\n")
        path.chmod(path.stat().st_mode | stat.S_IXUSR)
        return path

    return make


def look(folder: Path, python: Path, engine: str = "granian") -> interpreter.Interpreter:
    (folder / "instar.toml").write_text(
        f'[app]\nname = "x"\ntarget = "x:app"\npython = "{python}"\n'
        f'[web]\nengine = "{engine}"\ncommand = {["x"] if engine == "command" else []}\n'
    )
    return interpreter.look_at(load(folder / "instar.toml"))


@pytest.fixture
def bare(tmp_path: Path) -> Path:
    """A virtual environment of our own Python, with nothing installed."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "venv"], check=True)
    return tmp_path / "venv"


def test_an_environment_of_our_own_python_can_borrow_the_server(tmp_path: Path, bare: Path) -> None:
    found = look(tmp_path, bare / "bin/python")
    assert found == interpreter.Interpreter(sys.version_info[:2], has_engine=True)
    # Only this one is lent.
    assert not look(tmp_path, bare / "bin/python", "uvicorn").has_engine


def test_an_environment_of_another_python_cannot(tmp_path: Path, bare: Path) -> None:
    [site] = (bare / "lib").glob("python*/site-packages")
    (site / "sitecustomize.py").write_text(
        "print('instar of another')\nimport importlib.machinery as m\nm.EXTENSION_SUFFIXES.insert(0, '.other.so')\n"
    )
    assert not look(tmp_path, bare / "bin/python").has_engine
    assert look(tmp_path, bare / "bin/python", "command").has_engine
    assert look(tmp_path, bare / "bin/python", "uwsgi").has_engine
    (site / "granian.py").touch()
    assert look(tmp_path, bare / "bin/python").has_engine


@pytest.mark.parametrize("version", ["2 7", "3 7", "3 10"])
def test_one_that_is_too_old_is_told_by_a_sentence(tmp_path: Path, python: Python, version: str) -> None:
    # Python 2 stops at the second line.
    path = python(f"instar {version}", errors="ImportError: No module named util", status=1)
    with pytest.raises(ConfigError, match=rf"under {path}: it is Python {version.replace(' ', '.')}, and instar runs"):
        look(tmp_path, path)


@pytest.mark.parametrize(
    ("lines", "errors", "words"),
    [
        ((), "libpython3.so: cannot open shared object file", r"does not say its version \(libpython3.so: cannot open"),
        ((), "", "it does not say its version$"),
        (("instar", "instar three one", "hello"), "", "does not say its version"),
    ],
)
def test_one_that_does_not_run(tmp_path: Path, python: Python, lines: tuple[str, ...], errors: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        look(tmp_path, python(*lines, errors=errors))


def test_one_that_is_no_program(tmp_path: Path, python: Python) -> None:
    path = python()
    path.write_text("not a program\n")
    with pytest.raises(ConfigError, match=r"cannot run .*: exec format error; see virtualenv"):
        look(tmp_path, path)


def test_one_that_hangs(tmp_path: Path, python: Python, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(interpreter, "_LIMIT", 0.2)
    path = python()
    path.write_text("#!/bin/sh\nexec sleep 60\n")
    with pytest.raises(ConfigError, match=r"does not answer within 0\.2 s"):
        look(tmp_path, path)


def old_pythons() -> list[str]:
    """Real ones of this machine."""
    folders = sorted(Path.home().glob(".pyenv/versions/*/bin/python"))
    return [str(path) for path in folders if path.parent.parent.name.startswith(("2.7", "3.7", "3.10"))]


@pytest.mark.parametrize("path", old_pythons())
def test_real_old_ones(tmp_path: Path, path: str) -> None:
    with pytest.raises(ConfigError, match=r"it is Python [23]\.\d+, and instar runs Python 3.11 or newer"):
        look(tmp_path, Path(path))
