from __future__ import annotations

import os
from pathlib import Path

import pytest

import instar.config
from instar.cli._target import find_state, name_in, state_of
from instar.errors import ConfigError


@pytest.fixture(autouse=True)
def somewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("INSTAR_STATE_DIR", raising=False)
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)


@pytest.mark.parametrize("uid", [0, 1000])
@pytest.mark.parametrize("variables", [{}, {"INSTAR_STATE_DIR": "rel/x"}, {"XDG_RUNTIME_DIR": "/run/user/1000"}])
def test_verbs_and_configuration_agree(uid: int, variables: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    """`state_of` exists only because importing the configuration takes longer than all of `instar status`."""
    monkeypatch.setattr(os, "geteuid", lambda: uid)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert state_of("shop") == instar.config.state_dir("shop")


def test_the_name_comes_from_the_file(tmp_path: Path) -> None:
    assert name_in(None) == "main"
    Path("instar.toml").write_text('[app]\nname = "shop"\nunknown = 1\n')
    assert name_in(None) == "shop"
    other = tmp_path / "other.toml"
    other.write_text("[web]\nworkers = 1\n")
    assert name_in(other) == "main"
    assert find_state(other, "given", None).name == "given"
    assert find_state(other, None, Path("x")) == tmp_path / "x"


@pytest.mark.parametrize("text", ["[app", '[app]\nname = "../x"', "[app]\nname = 3", '[app]\nname = ""', "app = 1\x00"])
def test_a_file_that_names_nothing_usable_is_a_sentence(text: str) -> None:
    Path("instar.toml").write_text(text)
    with pytest.raises(ConfigError, match=r"^cannot .*--name$"):
        name_in(None)


def test_a_named_file_must_exist() -> None:
    with pytest.raises(ConfigError, match=r"^cannot read nowhere\.toml"):
        name_in(Path("nowhere.toml"))
