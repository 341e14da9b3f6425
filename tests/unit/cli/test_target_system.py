"""A member of the deploy group finds the supervisor that root has started."""

from __future__ import annotations

from pathlib import Path

import pytest

from instar.cli import _target


@pytest.fixture
def system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """In place of /run/instar; this user's own folder is beside it."""
    monkeypatch.setattr(_target, "_SYSTEM", tmp_path / "run")
    monkeypatch.setattr(_target.os, "geteuid", lambda: 1000)
    monkeypatch.delenv("INSTAR_STATE_DIR", raising=False)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "own"))
    return tmp_path / "run"


def there(state: Path, door: str) -> Path:
    (state / door).mkdir(parents=True)
    (state / door / "control.sock").touch()
    return state


def test_nobody_is_there(system: Path, tmp_path: Path) -> None:
    assert _target.find_state(None, "shop", None) == tmp_path / "own" / "instar" / "shop"


def test_that_of_root(system: Path) -> None:
    state = there(system / "shop", "deploy")
    assert _target.find_state(None, "shop", None) == state


def test_ones_own_comes_first(system: Path, tmp_path: Path) -> None:
    there(system / "shop", "deploy")
    state = there(tmp_path / "own" / "instar" / "shop", "control")
    assert _target.find_state(None, "shop", None) == state


def test_what_was_told_is_not_doubted(system: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    there(system / "shop", "deploy")
    monkeypatch.setenv("INSTAR_STATE_DIR", str(tmp_path / "other"))
    assert _target.find_state(None, "shop", None) == tmp_path / "other"
