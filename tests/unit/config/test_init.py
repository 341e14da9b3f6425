from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from instar.config import load

Instar = Callable[..., Any]
FLASK = "from flask import Flask\napp = Flask(__name__)\nother = Flask('y')\n"


def test_writes_and_says_what_to_try_next(project: Path, instar: Instar) -> None:
    (project / "site.py").write_text(FLASK)
    (project / "site.py").rename(project / "web.py")
    answer = instar("init")
    assert answer.code == 0
    assert "Found Flask: web:app (WSGI, web.py:2)" in answer.out
    assert "--target web:other takes it" in answer.out
    assert "instar check --load" in answer.out
    assert load(None).app.target == "web:app"


def test_refuses_to_overwrite(project: Path, instar: Instar) -> None:
    (project / "instar.toml").write_text("mine")
    answer = instar("init")
    assert answer.code == 2
    assert answer.err == "instar: cannot write instar.toml: it exists; keep it, or replace it with --force\n"
    assert (project / "instar.toml").read_text() == "mine"
    assert instar("init", "--force").code == 0
    assert load(None).app.name == "project"
    assert [path.name for path in project.iterdir()] == ["instar.toml"]


def test_another_target(project: Path, instar: Instar) -> None:
    (project / "web.py").write_text(FLASK)
    assert instar("init", "--target", "web:other").code == 0
    assert load(None).app.target == "web:other"
    assert instar("init", "--force", "--target", "elsewhere:app").code == 0
    assert load(None).app.target == "elsewhere:app"
    assert load(None).app.interface == "auto"
    answer = instar("init", "--force", "--target", "no target")
    assert answer.code == 2
    assert "[app] target must be" in answer.err
    assert load(None).app.target == "elsewhere:app"


def test_another_folder(project: Path, instar: Instar) -> None:
    (project / "sub").mkdir()
    answer = instar("init", "sub")
    assert answer.code == 0
    assert "No application was found" in answer.out
    assert (project / "sub/instar.toml").exists()
    assert instar("init", "nowhere").code == 2


def test_stdout_and_json(project: Path, instar: Instar) -> None:
    (project / "web.py").write_text(FLASK)
    assert 'target = "web:app"' in instar("init", "--stdout").out
    assert not (project / "instar.toml").exists()
    answer = instar("init", "--json").json
    assert answer["target"] == "web:app"
    assert [item["target"] for item in answer["found"]] == ["web:app", "web:other"]
    assert Path(answer["file"]) == project / "instar.toml"
