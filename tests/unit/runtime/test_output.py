"""How tools call a process of a generation."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

CODE = """
import sys
from instar.runtime.output import redirect_output
redirect_output(sys.argv[1], sys.argv[2])
print(open("/proc/self/comm").read(), end="")
"""


@pytest.mark.parametrize(
    ("role", "shown"), [("web.1", "web.1"), ("main.job-handlers.1", ".job-handlers.1"), ("w\u00e4g.1", "w\u00e4g.1")]
)
def test_name_and_output(tmp_path: Path, role: str, shown: str) -> None:
    subprocess.run([sys.executable, "-X", "utf8", "-c", CODE, str(tmp_path), role], check=True)
    assert (tmp_path / f"{role}.out").read_text() == f"{shown}\n"
