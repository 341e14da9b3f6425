"""Files that options of uWSGI name, run as modules."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from instar.uwsgi.inside import files


def test_the_file_has_its_own_future_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ours would turn annotations into texts, which frameworks read."""
    (tmp_path / "app.py").write_text("def work(number: int): ...\n")
    monkeypatch.setitem(sys.modules, "of_a_test", None)
    module = files.run_file("of_a_test", str(tmp_path / "app.py"))
    assert module.work.__annotations__ == {"number": int}
