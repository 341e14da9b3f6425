"""Python files of a project, parsed and never imported."""

from __future__ import annotations

import ast
import dataclasses
import os
import re
import warnings
from collections.abc import Iterator
from pathlib import Path

MAX_DEPTH = 6
MAX_FILES = 3000
MAX_BYTES = 1 << 20

_SKIPPED = frozenset(
    "node_modules site-packages __pycache__ build dist migrations tests test docs env venv static media".split()  # noqa: SIM905
)


@dataclasses.dataclass(frozen=True)
class Source:
    """One module. `imports` maps the names in it to dotted names: `FastAPI` to `fastapi.FastAPI`."""

    path: Path
    tree: ast.Module
    imports: dict[str, str]

    def dotted(self, node: ast.expr) -> str:
        """The dotted name that an expression means, with imports resolved; empty when it is none."""
        if isinstance(node, ast.Name):
            return self.imports.get(node.id, node.id)
        if isinstance(node, ast.Attribute) and (head := self.dotted(node.value)):
            return f"{head}.{node.attr}"
        return ""


def python_files(root: Path) -> Iterator[Path]:
    """The files below `root` that may be modules of the project: no tests, virtual environments and the like."""
    count = 0
    for folder, names, files in os.walk(root):
        here = Path(folder)
        depth = len(here.relative_to(root).parts)
        names[:] = sorted(name for name in names if depth < MAX_DEPTH and _wanted(here / name))
        for name in sorted(files):
            if not name.endswith(".py") or name.startswith("test_") or name == "conftest.py":
                continue
            count += 1
            if count > MAX_FILES:
                return
            yield here / name


def mentions(path: Path, pattern: re.Pattern[bytes]) -> bool:
    """Whether the pattern occurs in a file. Much quicker than parsing it."""
    try:
        return path.stat().st_size <= MAX_BYTES and pattern.search(path.read_bytes()) is not None
    except OSError:
        return False


def _wanted(folder: Path) -> bool:
    name = folder.name
    return not (name.startswith(".") or name in _SKIPPED or folder.is_symlink() or (folder / "pyvenv.cfg").exists())


def parse(path: Path) -> Source | None:
    """The parsed file; None when it can't be read or is no Python of ours."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tree = ast.parse(path.read_bytes(), filename=str(path))
    except (OSError, SyntaxError, ValueError, RecursionError, MemoryError):
        return None
    return Source(path, tree, _imports(tree))


def _imports(tree: ast.Module) -> dict[str, str]:
    names: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                names[alias.asname or alias.name.split(".")[0]] = (
                    alias.name if alias.asname else alias.name.split(".")[0]
                )
        elif isinstance(node, ast.ImportFrom):
            prefix = f"{node.module}." if node.module and not node.level else ""
            for alias in node.names:
                names[alias.asname or alias.name] = prefix + alias.name
    return names


def toplevel(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    """Statements that an import runs, also those in `if` and `try`, but not in `if __name__ == "__main__"`."""
    for node in body:
        yield node
        if (isinstance(node, ast.If) and not _is_main_guard(node.test)) or isinstance(node, ast.Try):
            yield from toplevel(node.body)
            yield from toplevel(node.orelse)
        elif isinstance(node, ast.With):
            yield from toplevel(node.body)


def _is_main_guard(test: ast.expr) -> bool:
    return any(isinstance(node, ast.Name) and node.id == "__name__" for node in ast.walk(test))


def assignments(body: list[ast.stmt]) -> Iterator[tuple[str, ast.expr, int]]:
    """(name, value, line) of simple assignments at the top level of a module."""
    for node in toplevel(body):
        if isinstance(node, ast.Assign):
            for target in node.targets:
                if isinstance(target, ast.Name):
                    yield target.id, node.value, node.lineno
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.value is not None:
            yield node.target.id, node.value, node.lineno


def text_of(node: ast.expr | None) -> str | None:
    """The value of a text constant."""
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else None


def keyword(call: ast.Call, name: str) -> ast.expr | None:
    """The value of a keyword argument."""
    return next((item.value for item in call.keywords if item.arg == name), None)
