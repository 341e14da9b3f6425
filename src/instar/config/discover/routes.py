"""Routes that an application's own module declares, to find a path for the health probe."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator

from instar.config.discover.candidate import Health
from instar.config.discover.source import Source, keyword, text_of

#: Last part of a path that usually tells whether the application is well, the best first.
HEALTH_NAMES = (
    "healthz",
    "readyz",
    "ready",
    "health",
    "livez",
    "healthcheck",
    "health-check",
    "alive",
    "ping",
    "status",
)

_DECORATORS = frozenset({"get", "route", "api_route"})
_CALLS = frozenset({"add_url_rule", "add_api_route", "add_route", "Route"})


def routes(source: Source) -> list[str]:
    """Paths without parameters that answer GET, in the order of the file."""
    found: list[str] = []
    for call in _route_calls(source.tree):
        path = text_of(call.args[0]) if call.args else text_of(keyword(call, "path"))
        if path and path.startswith("/") and not any(mark in path for mark in "<{") and _answers_get(call):
            found.append(path)
    return found


def _route_calls(tree: ast.Module) -> Iterator[ast.Call]:
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            for decorator in node.decorator_list:
                if (
                    isinstance(decorator, ast.Call)
                    and isinstance(decorator.func, ast.Attribute)
                    and decorator.func.attr in _DECORATORS
                    and not _is_router(decorator.func.value)
                ):
                    yield decorator
        elif isinstance(node, ast.Call):
            name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            if name in _CALLS:
                yield node


def _is_router(node: ast.expr) -> bool:
    # A router's or blueprint's paths get a prefix somewhere else.
    name = getattr(node, "id", "").lower()
    return any(word in name for word in ("router", "blueprint", "bp"))


def _answers_get(call: ast.Call) -> bool:
    methods = keyword(call, "methods")
    if not isinstance(methods, ast.List | ast.Tuple | ast.Set):
        return True
    return any(text_of(item) in ("GET", "get", "HEAD") for item in methods.elts)


def health(paths: Iterable[str]) -> Health | None:
    """The best of some paths."""
    known = list(paths)
    for name in HEALTH_NAMES:
        for path in known:
            if path.rstrip("/").rpartition("/")[2].lower() == name:
                return Health(path, "the application has this route")
    if "/" in known:
        return Health("/", "the application has this route")
    return (
        Health(known[0], "the first route of the application; one that checks its database is better")
        if known
        else None
    )
