"""Entry of a launcher: `PYTHON -I -S bootstrap.py …`, run by path in a bare interpreter."""

from __future__ import annotations

import os
import sys


def main() -> None:
    """Make `instar` importable, after the standard library, and be a launcher."""
    sys.path.append(os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))  # noqa: PTH100, PTH120

    from instar.jobs.launcher import main as run

    raise SystemExit(run(sys.argv[1:]))


if __name__ == "__main__":
    main()
