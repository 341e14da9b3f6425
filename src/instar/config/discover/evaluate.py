"""Computes the few expressions that settings build paths with. Nothing is executed."""

from __future__ import annotations

import ast
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def evaluate(node: ast.expr | None, names: Mapping[str, Any], file: Path) -> Any:
    """Text, Path, number, list or bool; None when the expression is beyond us."""
    if isinstance(node, ast.Constant):
        return node.value
    if isinstance(node, ast.Name):
        return str(file) if node.id == "__file__" else names.get(node.id)
    if isinstance(node, ast.List | ast.Tuple):
        return [evaluate(item, names, file) for item in node.elts]
    if isinstance(node, ast.BinOp):
        return _operation(node, names, file)
    if isinstance(node, ast.Attribute):
        value = evaluate(node.value, names, file)
        return value.parent if isinstance(value, Path) and node.attr == "parent" else None
    if isinstance(node, ast.Subscript):
        return _ancestor(node, names, file)
    if isinstance(node, ast.Call):
        return _call(node, names, file)
    return None


def _operation(node: ast.BinOp, names: Mapping[str, Any], file: Path) -> Any:
    left, right = evaluate(node.left, names, file), evaluate(node.right, names, file)
    if isinstance(node.op, ast.Div) and isinstance(left, Path) and isinstance(right, str | Path):
        return left / right
    if isinstance(node.op, ast.Add) and isinstance(left, str) and isinstance(right, str):
        return left + right
    return None


def _ancestor(node: ast.Subscript, names: Mapping[str, Any], file: Path) -> Any:
    if not isinstance(node.value, ast.Attribute) or node.value.attr != "parents":
        return None
    path, index = evaluate(node.value.value, names, file), evaluate(node.slice, names, file)
    if isinstance(path, Path) and isinstance(index, int) and 0 <= index < len(path.parents):
        return path.parents[index]
    return None


def _call(node: ast.Call, names: Mapping[str, Any], file: Path) -> Any:
    name = ast.unparse(node.func)
    if isinstance(node.func, ast.Attribute) and node.func.attr in ("resolve", "absolute"):
        value = evaluate(node.func.value, names, file)
        return value if isinstance(value, Path) else None
    arguments = [evaluate(item, names, file) for item in node.args]
    if not arguments or not all(isinstance(item, str | Path) for item in arguments):
        return None
    if name in ("Path", "pathlib.Path") or name.endswith("path.join"):
        return Path(*arguments)
    if name.endswith(("path.dirname", "path.abspath", "path.realpath")):
        path = Path(arguments[0])
        return path.parent if name.endswith("dirname") else path
    return str(arguments[0]) if name == "str" else None
