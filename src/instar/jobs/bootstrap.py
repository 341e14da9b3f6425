"""Entry of our small interpreters: `PYTHON … bootstrap.py launcher|callee …`, run by path.

It makes exactly `instar` come from this installation, whatever else is importable; nothing else of it.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys


def main() -> None:
    """Be what the first argument says."""
    folder = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))  # noqa: PTH100, PTH120
    init = os.path.join(folder, "__init__.py")  # noqa: PTH118 - pathlib costs an import
    spec = importlib.util.spec_from_file_location("instar", init, submodule_search_locations=[folder])
    assert spec is not None  # noqa: S101 - for the type checker
    assert spec.loader is not None  # noqa: S101
    sys.modules["instar"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(sys.modules["instar"])
    role = importlib.import_module(f"instar.jobs.{sys.argv[1]}")
    raise SystemExit(role.main(sys.argv[2:]))


if __name__ == "__main__":
    main()
