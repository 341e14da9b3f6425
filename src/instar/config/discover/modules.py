"""From a file to the name that imports it, and the folder that makes the import work."""

from __future__ import annotations

import ast
import dataclasses
from pathlib import Path

from instar.config.discover.source import Source


@dataclasses.dataclass(frozen=True)
class Place:
    """How to import a file. Folders are relative to the project."""

    module: str
    chdir: str = "."
    pythonpath: tuple[str, ...] = ()


def place(source: Source, root: Path) -> Place:
    """The module's name, seen from `root`, from `src`, or from its own folder when it imports its neighbours."""
    relative = source.path.relative_to(root)
    folders = list(relative.parts[:-1])
    stem = [] if relative.stem == "__init__" else [relative.stem]
    if folders and folders[0] == "src" and not (root / "src/__init__.py").exists():
        return Place(".".join([*folders[1:], *stem]) or relative.stem, pythonpath=("src",))
    top = _script_folder(source, root)
    if top is not None:
        return Place(".".join(source.path.relative_to(top).with_suffix("").parts), chdir=str(top.relative_to(root)))
    return Place(".".join([*folders, *stem]) or relative.stem)


def _script_folder(source: Source, root: Path) -> Path | None:
    """The nearest folder above, not a package and not the root, whose modules the file imports by bare name."""
    wanted = _absolute_imports(source.tree)
    folder = source.path.parent
    while folder != root and root in folder.parents:
        if not (folder / "__init__.py").exists() and any(
            (folder / f"{name}.py").is_file() or (folder / name).is_dir() for name in wanted
        ):
            return folder
        folder = folder.parent
    return None


def _absolute_imports(tree: ast.Module) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names.update(alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module.split(".")[0])
    return names
