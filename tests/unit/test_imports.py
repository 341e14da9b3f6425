"""The folders of the package build on each other in one direction; what runs inside the application needs nothing."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "src/instar"
#: A folder may import from those before it.
ORDER = [
    "system",
    "config",
    "store",
    "listeners",
    "handlers",
    "jobs",
    "engines",
    "runtime",
    "supervisor",
    "control",
    "uwsgi",
    "contrib",
    "cli",
]
#: Loaded in the application's own processes, under its interpreter: standard library only.
INSIDE = {"", "errors", "system", "handlers", "jobs", "engines", "runtime", "middleware", "testing"}
#: The same, of a folder that otherwise runs in the supervisor.
INSIDE_PREFIXES = ("instar.uwsgi.inside",)
#: What runtime and supervisor say to each other with; all that the supervisor may import from the runtime.
SHARED = {"instar.runtime", "instar.runtime.channel", "instar.runtime.scoreboard", "instar.runtime.spec"}

FILES = sorted(PACKAGE.rglob("*.py"))
IDS = [str(path.relative_to(PACKAGE)) for path in FILES]


def folder_of(module: str) -> str:
    """`instar.cli.run` → `cli`; files of the top folder stand for themselves."""
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else ""


def is_inside(module: str) -> bool:
    """Whether a module is for the application's own processes. The packages above it hold nothing but a docstring."""
    return folder_of(module) in INSIDE or module == "instar.uwsgi" or module.startswith(INSIDE_PREFIXES)


def imports_of(path: Path, *, module_level: bool = False) -> Iterator[str]:
    """Names of the modules that a file imports, `instar.x.y` where `from instar.x import y` names a module."""
    tree = ast.parse(path.read_text())
    for node in _module_level(tree) if module_level else ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports hide the direction"
            assert node.module
            yield from (_submodule(node.module, alias.name) for alias in node.names)


def _module_level(node: ast.AST) -> Iterator[ast.AST]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            continue
        yield child
        yield from _module_level(child)


def _submodule(module: str, name: str) -> str:
    path = PACKAGE.parent.joinpath(*module.split("."), name)
    is_module = path.is_dir() or path.with_suffix(".py").exists()
    return f"{module}.{name}" if module.startswith("instar") and is_module else module


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__")


@pytest.mark.parametrize("path", FILES, ids=IDS)
def test_direction(path: Path) -> None:
    here = folder_of(module_name(path))
    for name in imports_of(path):
        there = folder_of(name)
        if not name.startswith("instar") or here not in ORDER or there not in ORDER or here == there:
            continue
        assert ORDER.index(there) < ORDER.index(here), f"{here} must not import {name}"
        if here in ("supervisor", "control", "listeners", "config", "system") and there == "runtime":
            assert name in SHARED, f"{here} must not import {name}: only what is shared with the runtime"


@pytest.mark.parametrize("path", [path for path in FILES if is_inside(module_name(path))], ids=str)
def test_standard_library_only_inside_the_application(path: Path) -> None:
    for name in imports_of(path, module_level=True):
        if name.startswith("instar"):
            assert is_inside(name), f"{name} isn't for the application's process"
        else:
            assert name.partition(".")[0] in sys.stdlib_module_names, f"{name} isn't in the standard library"


def test_inside_modules_really_load_without_site_packages() -> None:
    names = [module_name(path) for path in FILES if is_inside(module_name(path))]
    # A bootstrap is a script: importing it would run it. The decorators need the `uwsgi` module beside them.
    names = [name for name in names if not name.endswith(("bootstrap", "__main__", ".decorators"))]
    program = f"import sys, importlib; sys.path.insert(0, {str(PACKAGE.parent)!r})\n"
    program += f"for name in {names!r}: importlib.import_module(name)\n"
    done = subprocess.run([sys.executable, "-I", "-S", "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_no_folder_is_unknown() -> None:
    folders = {path.name for path in PACKAGE.iterdir() if path.is_dir() and path.name != "__pycache__"}
    assert folders <= set(ORDER)
