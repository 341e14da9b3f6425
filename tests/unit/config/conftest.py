from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from instar.cli import main
from instar.config import Config, load
from instar.errors import ConfigError


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder that is the current one, with a state directory of its own."""
    folder = tmp_path / "project"
    folder.mkdir()
    # A process stands in one folder; this one has seen folders of other tests, whose inode may be in use again.
    monkeypatch.setattr("instar.config.here._names", {})
    monkeypatch.chdir(folder)
    monkeypatch.setenv("INSTAR_STATE_DIR", str(tmp_path / "state"))
    return folder


@pytest.fixture
def read(project: Path) -> Callable[..., Config]:
    """Load a text as `instar.toml` of the project."""

    def read(text: str, **options: Any) -> Config:
        (project / "instar.toml").write_text(text)
        return load(None, **options)

    return read


@pytest.fixture
def errors(read: Callable[..., Config]) -> Callable[..., list[str]]:
    """The sentences with which a text is refused."""

    def errors(text: str, **options: Any) -> list[str]:
        with pytest.raises(ConfigError) as raised:
            read(text, **options)
        assert raised.value.exit_code == 2
        return str(raised.value).splitlines()

    return errors


@dataclasses.dataclass(frozen=True)
class Answer:
    """What a verb said."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> dict[str, Any]:
        """The one object of `--json`."""
        value: dict[str, Any] = json.loads(self.out)
        return value


@pytest.fixture
def instar(project: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Callable[..., Answer]:
    """Run a verb in the project's folder."""

    def run(*arguments: str) -> Answer:
        monkeypatch.setattr("sys.argv", ["instar", *arguments])
        with pytest.raises(SystemExit) as raised:
            main()
        out, err = capfd.readouterr()
        return Answer(int(raised.value.code or 0), out, err)

    return run
