"""Applications of Flask, FastAPI, Starlette and relatives, found by their constructors."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Literal

from instar.config.discover.candidate import Candidate, Health, Static
from instar.config.discover.evaluate import evaluate
from instar.config.discover.modules import place
from instar.config.discover.routes import health, routes
from instar.config.discover.source import (
    Source,
    assignments,
    keyword,
    mentions,
    parse,
    python_files,
    text_of,
    toplevel,
)

Interface = Literal["wsgi", "asgi"]

CONSTRUCTORS: dict[str, tuple[str, Interface]] = {
    "flask.Flask": ("Flask", "wsgi"),
    "flask.app.Flask": ("Flask", "wsgi"),
    "fastapi.FastAPI": ("FastAPI", "asgi"),
    "fastapi.applications.FastAPI": ("FastAPI", "asgi"),
    "starlette.applications.Starlette": ("Starlette", "asgi"),
    "quart.Quart": ("Quart", "asgi"),
    "litestar.Litestar": ("Litestar", "asgi"),
    "bottle.Bottle": ("Bottle", "wsgi"),
    "falcon.App": ("Falcon", "wsgi"),
    "falcon.asgi.App": ("Falcon", "asgi"),
    "django.core.wsgi.get_wsgi_application": ("Django", "wsgi"),
    "django.core.asgi.get_asgi_application": ("Django", "asgi"),
    "channels.routing.ProtocolTypeRouter": ("Django Channels", "asgi"),
}
#: A module without any of this holds no application, unless it calls a factory.
_INTERESTING = re.compile(
    rb"(?:from|import)\s+(?:" + b"|".join(sorted({name.partition(".")[0].encode() for name in CONSTRUCTORS})) + rb")\b"
    rb"|\benviron\b[^)]{0,200}\bstart_response\b|\bscope\b[^)]{0,200}\breceive\b"
)
_NAMES = ("app", "application", "api", "wsgi", "asgi")
_MODULES = ("wsgi", "asgi", "main", "app", "application", "server", "__init__")


def find(root: Path) -> list[Candidate]:
    """The applications in a folder, the likeliest first."""
    files = list(python_files(root))
    modules = {path: source for path in files if mentions(path, _INTERESTING) and (source := parse(path))}
    factories = {name: kind for source in modules.values() for name, kind, _ in _factories(source)}
    if factories:
        callers = re.compile(rb"\b(?:" + b"|".join(name.encode() for name in factories) + rb")\(")
        rest = [path for path in files if path not in modules and mentions(path, callers)]
        modules |= {path: source for path in rest if (source := parse(path))}
    found = [item for path in files if path in modules for item in _in_module(modules[path], root, factories)]
    return sorted(found, key=_rank)


def _rank(candidate: Candidate) -> tuple[object, ...]:
    module, _, name = candidate.target.partition(":")
    return (
        candidate.framework in ("WSGI", "ASGI"),
        "example" in candidate.file or "demo" in candidate.file,
        candidate.factory,
        _place_in(_NAMES, name),
        candidate.file.count("/"),
        _place_in(_MODULES, module.rpartition(".")[2]),
        candidate.file,
    )


def _place_in(order: tuple[str, ...], name: str) -> int:
    return order.index(name) if name in order else len(order)


def _in_module(source: Source, root: Path, factories: dict[str, tuple[str, Interface]]) -> Iterator[Candidate]:
    for name, value, line in assignments(source.tree.body):
        if isinstance(value, ast.Call) and (kind := _kind(source, value, factories)):
            yield _candidate(source, root, name, kind, line, value)
    for name, kind, line in (*_factories(source), *_plain(source)):
        yield _candidate(source, root, name, kind, line, None, factory=kind[0] not in ("WSGI", "ASGI"))


def _kind(source: Source, call: ast.Call, factories: dict[str, tuple[str, Interface]]) -> tuple[str, Interface] | None:
    dotted = source.dotted(call.func)
    return CONSTRUCTORS.get(dotted) or factories.get(dotted.rpartition(".")[2])


def _factories(source: Source) -> Iterator[tuple[str, tuple[str, Interface], int]]:
    """Functions that need no argument, construct an application and return something."""
    for node in toplevel(source.tree.body):
        if not isinstance(node, ast.FunctionDef) or node.name.startswith("_") or _required(node.args):
            continue
        if not any(isinstance(inner, ast.Return) and inner.value is not None for inner in ast.walk(node)):
            continue
        for inner in ast.walk(node):
            if isinstance(inner, ast.Call) and (kind := CONSTRUCTORS.get(source.dotted(inner.func))):
                yield node.name, kind, node.lineno
                break


def _required(arguments: ast.arguments) -> bool:
    positional = len(arguments.posonlyargs) + len(arguments.args) - len(arguments.defaults)
    return positional > 0 or any(default is None for default in arguments.kw_defaults)


def _plain(source: Source) -> Iterator[tuple[str, tuple[str, Interface], int]]:
    """`def application(environ, start_response)` and `async def app(scope, receive, send)`."""
    for node in toplevel(source.tree.body):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            names = [argument.arg for argument in node.args.args]
            if node.name.startswith("_"):
                continue
            if isinstance(node, ast.FunctionDef) and names == ["environ", "start_response"]:
                yield node.name, ("WSGI", "wsgi"), node.lineno
            elif isinstance(node, ast.AsyncFunctionDef) and names == ["scope", "receive", "send"]:
                yield node.name, ("ASGI", "asgi"), node.lineno


def _candidate(
    source: Source,
    root: Path,
    name: str,
    kind: tuple[str, Interface],
    line: int,
    call: ast.Call | None,
    *,
    factory: bool = False,
) -> Candidate:
    where = place(source, root)
    return Candidate(
        framework=kind[0],
        target=f"{where.module}:{name}",
        interface=kind[1],
        file=str(source.path.relative_to(root)),
        line=line,
        factory=factory,
        chdir=where.chdir,
        pythonpath=where.pythonpath,
        health=health(routes(source)) or _usual(kind[0], call) or Candidate.health,
        static=tuple(_static(source, root, kind[0], root / where.chdir)),
    )


def _usual(framework: str, call: ast.Call | None) -> Health | None:
    if framework == "FastAPI" and (call is None or keyword(call, "openapi_url") is None):
        return Health("/openapi.json", "FastAPI makes it; a route of your own that checks the database is better")
    return None


def _static(source: Source, root: Path, framework: str, chdir: Path) -> Iterator[Static]:
    found = list(_mounts(source, chdir))
    folder = source.path.parent / "static"
    # Flask serves this folder by itself, at this address.
    if framework in ("Flask", "Quart") and folder.is_dir():
        found.append(("/static", folder))
    yield from _inside(dict(found).items(), root)


def _mounts(source: Source, chdir: Path) -> Iterator[tuple[str, Path]]:
    """`mount("/static", StaticFiles(directory="static"))` and `Mount(…)`."""
    for node in ast.walk(source.tree):
        if not isinstance(node, ast.Call) or ast.unparse(node.func).rpartition(".")[2].lower() != "mount":
            continue
        prefix = text_of(node.args[0]) if node.args else text_of(keyword(node, "path"))
        files = node.args[1] if len(node.args) > 1 else keyword(node, "app")
        if not prefix or not isinstance(files, ast.Call) or not ast.unparse(files.func).endswith("StaticFiles"):
            continue
        # With html=True it also answers folders with their index, which a static map does not.
        if keyword(files, "html") is None and prefix.strip("/"):
            names = {name: evaluate(value, {}, source.path) for name, value, _ in assignments(source.tree.body)}
            folder = evaluate(keyword(files, "directory"), names, source.path)
            if isinstance(folder, str | Path):
                yield prefix, chdir / folder


def _inside(maps: Iterable[tuple[str, Path]], root: Path) -> Iterator[Static]:
    for prefix, folder in maps:
        shown = folder.relative_to(root) if folder.is_relative_to(root) else folder
        if folder.is_dir():
            yield Static(prefix.rstrip("/"), str(shown))
