from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from instar.config import Config, Redactor, environment, read_env_file
from instar.errors import ConfigError


def test_all_forms(tmp_path: Path) -> None:
    path = tmp_path / ".env"
    path.write_text(
        '\ufeff# comment\n\nA=1\nexport B = two words \nC=\'$A # "x"\'\nD="a\\nb \\"q\\" \\\\ \\$" # comment\n'
        "E=x # comment\nF=x#y\nG=\nH=#y\nI=\"first\n  second\"\nJ='a=b'\nA=last\n",
    )
    assert read_env_file(path) == {
        "A": "last",
        "B": "two words",
        "C": '$A # "x"',
        "D": 'a\nb "q" \\ $',
        "E": "x",
        "F": "x#y",
        "G": "",
        "H": "",
        "I": "first\n  second",
        "J": "a=b",
    }


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("A=1\nhunter2 secret", "line 2 is not NAME=value"),
        ("1A=hunter2", "line 1 is not NAME=value"),
        ("A=1\nB='hunter2\nC=3", "the quote in line 2 is not closed"),
        ("A='x' hunter2", "the quote in line 1 is not closed"),
    ],
)
def test_errors_name_the_line_but_not_its_text(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / ".env"
    path.write_text(text)
    with pytest.raises(ConfigError, match=words) as raised:
        read_env_file(path)
    assert "hunter2" not in str(raised.value)


def test_unreadable(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such file"):
        read_env_file(tmp_path / "missing")
    (tmp_path / "latin").write_bytes(b"A=\xff")
    with pytest.raises(ConfigError, match="not UTF-8"):
        read_env_file(tmp_path / "latin")


def test_env_wins_over_the_file(project: Path, read: Callable[..., Config]) -> None:
    (project / ".env").write_text("A=file\nB=file\n")
    config = read("[app]\ntarget = 'm:a'\nenv_file = '.env'\nenv = {A = 'toml', C = 3}\n")
    assert environment(config) == {"A": "toml", "B": "file", "C": "3"}
    assert "toml'" not in repr(config)  # may be a secret as well


def test_redactor_knows_the_forms_of_a_secret() -> None:
    hide = Redactor(["pa ss'word", "line one\nline two", "", "42"])
    assert hide("pa ss'word") == "***"
    assert hide(repr({"k": "pa ss'word"})) == "{'k': \"***\"}"
    assert hide("postgres://u:pa%20ss%27word@h") == "postgres://u:***@h"
    assert hide("  line two") == "  ***"
    assert hide("'line one\\nline two'") == "'***'"
    assert hide("port 42, 1429") == "port ***, 1429"
    assert Redactor([])("text") == "text"


def test_redactor_takes_the_longer_of_two() -> None:
    assert Redactor(["secret", "secret-longer"])("secret-longer secret") == "*** ***"
