from __future__ import annotations

import sys
from pathlib import Path

import pytest

for _folder in (Path(__file__).parents[2], Path(__file__).parent):
    sys.path.insert(0, str(_folder))

from inside_tools import Inside  # noqa: E402


@pytest.fixture
def inside(tmp_path):
    """Makes extensions; all are closed at the end."""
    made = []

    def make(options=(), **more):
        made.append(Inside(tmp_path, options, **more))
        return made[-1]

    yield make
    for item in made:
        item.close()
