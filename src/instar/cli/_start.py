"""Starts instar from the folder that this file is in: `PYTHON -P _start.py ARGUMENT…`, as `instar ARGUMENT…`."""

from __future__ import annotations

import os.path
import sys


def main() -> None:
    """Run the command line."""
    folder = os.path.abspath(__file__)  # noqa: PTH100
    for _ in range(3):
        folder = os.path.dirname(folder)  # noqa: PTH120
    sys.path.insert(0, folder)

    from instar.cli import main as run

    run()


if __name__ == "__main__":
    main()
