"""Entry of a zygote: `PYTHON -P bootstrap.py SPEC_FD`, under the application's interpreter.

Run by path, so nothing of the supervisor's environment is importable yet. It makes exactly `instar` come from
the supervisor's installation (both sides are of one version), plus those packages that the application's own
environment lacks.
"""

from __future__ import annotations

import importlib.util
import json
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import EXTENSION_SUFFIXES, ModuleSpec
from types import ModuleType
from typing import Any


class PackageFinder(MetaPathFinder):
    """Finds a few packages at given folders, whatever `sys.path` says."""

    def __init__(self, folders: Mapping[str, str]) -> None:
        self._folders = folders

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """The spec of a top-level package of ours; submodules are then found through its `__path__`."""
        folder = self._folders.get(fullname)
        if folder is None:
            return None
        init = os.path.join(folder, "__init__.py")  # noqa: PTH118 - pathlib costs an import at every boot
        return importlib.util.spec_from_file_location(fullname, init, submodule_search_locations=[folder])

    def find_distributions(self, context: Any = None) -> Iterator[Any]:
        """Their metadata, for importlib.metadata: an engine asks for its version."""
        name = getattr(context, "name", None)
        if name is not None and name in self._folders:
            import importlib.metadata
            import pathlib

            folder = pathlib.Path(self._folders[name]).parent
            yield from map(importlib.metadata.PathDistribution, folder.glob(f"{name}-*.dist-info"))


def fallback_finder(document: Mapping[str, Any]) -> PackageFinder:
    """Packages that the application's environment may lack; compiled ones if they were made for this interpreter."""
    folders = dict(document.get("fallbacks", {}))
    if document.get("abi") == EXTENSION_SUFFIXES[0]:
        folders.update(document.get("compiled", {}))
    return PackageFinder(folders)


def read_all(fd: int) -> str:
    """The whole document behind a descriptor; closes it."""
    with os.fdopen(fd, encoding="utf-8") as file:
        file.seek(0)
        return file.read()


def main() -> None:
    """Install the finders, then run the zygote until it ends."""
    text = read_all(int(sys.argv[1]))
    package = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))  # noqa: PTH100, PTH120
    sys.meta_path.insert(0, PackageFinder({"instar": package}))
    sys.meta_path.append(fallback_finder(json.loads(text)))

    from instar.runtime.zygote import main as run

    raise SystemExit(run(text))


if __name__ == "__main__":
    main()
