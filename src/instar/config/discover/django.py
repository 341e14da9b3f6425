"""Django projects: from `manage.py` to the settings, and from those to the application."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from instar.config.discover.candidate import Candidate, Health, Static
from instar.config.discover.evaluate import evaluate
from instar.config.discover.routes import HEALTH_NAMES
from instar.config.discover.source import Source, assignments, parse, text_of


def find(root: Path) -> list[Candidate]:
    """The applications of each `manage.py` in the folder, or one or two levels below."""
    return [candidate for manage in _manage_files(root) for candidate in _project(root, manage)]


def _manage_files(root: Path) -> Iterator[Path]:
    for pattern in ("manage.py", "*/manage.py", "*/*/manage.py"):
        for path in sorted(root.glob(pattern)):
            if not any(
                part.startswith(".") or part in ("node_modules", "venv") for part in path.relative_to(root).parts
            ):
                yield path


def _project(root: Path, manage: Path) -> Iterator[Candidate]:
    source = parse(manage)
    module = _settings_module(source) if source else None
    if module is None:
        return
    settings = _Settings(manage.parent)
    settings.read(module)
    for kind in _interfaces(settings.names):
        found = _application(manage.parent, module, settings.names, kind)
        if found is not None:
            yield _candidate(root, manage.parent, settings.names, kind, *found)


def _settings_module(source: Source) -> str | None:
    """The default of DJANGO_SETTINGS_MODULE."""
    for node in ast.walk(source.tree):
        if isinstance(node, ast.Call) and len(node.args) == 2 and text_of(node.args[0]) == "DJANGO_SETTINGS_MODULE":
            return text_of(node.args[1])
    return None


class _Settings:
    """Constants of a settings module and of those that it star-imports."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._seen: set[str] = set()
        self.names: dict[str, Any] = {}

    def read(self, module: str) -> None:
        path = module_file(self._folder, module)
        source = parse(path) if path and module not in self._seen else None
        self._seen.add(module)
        if source is None or path is None:
            return
        package = module if path.name == "__init__.py" else module.rpartition(".")[0]
        for node in source.tree.body:
            if isinstance(node, ast.ImportFrom) and any(alias.name == "*" for alias in node.names):
                self.read(_absolute(node, package))
            for name, value, _ in assignments([node]):
                self.names[name] = evaluate(value, self.names, path)


def _absolute(node: ast.ImportFrom, package: str) -> str:
    if not node.level:
        return node.module or ""
    parts = package.split(".")
    base = parts[: len(parts) - node.level + 1]
    return ".".join([*base, *([node.module] if node.module else [])])


def module_file(folder: Path, module: str) -> Path | None:
    """The file of a module, seen from a folder."""
    path = folder.joinpath(*module.split("."))
    for candidate in (path.with_suffix(".py"), path / "__init__.py"):
        if candidate.is_file():
            return candidate
    return None


def _interfaces(settings: dict[str, Any]) -> tuple[Literal["wsgi", "asgi"], ...]:
    # A project that names an ASGI application has a reason to (WebSockets, most often).
    return ("asgi", "wsgi") if settings.get("ASGI_APPLICATION") else ("wsgi", "asgi")


def _application(
    folder: Path, module: str, settings: dict[str, Any], kind: Literal["wsgi", "asgi"]
) -> tuple[str, Path] | None:
    """(target, its file)"""
    named = settings.get(f"{kind.upper()}_APPLICATION")
    if isinstance(named, str) and "." in named:
        owner, _, attribute = named.rpartition(".")
        if path := module_file(folder, owner):
            return f"{owner}:{attribute}", path
    parts = module.split(".")
    for count in range(len(parts) - 1, -1, -1):
        owner = ".".join([*parts[:count], kind])
        if path := module_file(folder, owner):
            return f"{owner}:application", path
    return None


def _candidate(
    root: Path, folder: Path, settings: dict[str, Any], kind: Literal["wsgi", "asgi"], target: str, path: Path
) -> Candidate:
    manage = "manage.py"
    return Candidate(
        framework="Django",
        target=target,
        interface=kind,
        file=str(path.relative_to(root)),
        line=1,
        chdir=str(folder.relative_to(root)),
        health=_health(folder, settings),
        static=tuple(_static(root, settings)),
        before=(("{python}", manage, "migrate", "--noinput"), ("{python}", manage, "collectstatic", "--noinput")),
        notes=tuple(_notes(settings)),
    )


def _notes(settings: dict[str, Any]) -> Iterator[str]:
    if settings.get("DEBUG") is True:
        yield "DEBUG is on in the settings"
    if not settings.get("STATIC_ROOT"):
        yield "STATIC_ROOT is not set, so static files are not served outside of DEBUG"


def _static(root: Path, settings: dict[str, Any]) -> Iterator[Static]:
    url, folder = settings.get("STATIC_URL"), settings.get("STATIC_ROOT")
    if isinstance(url, str) and isinstance(folder, str | Path) and "://" not in url and url.strip("/"):
        path = root / folder
        shown = path.relative_to(root) if path.is_relative_to(root) else path
        yield Static("/" + url.strip("/"), str(shown), exists=path.is_dir())


def _health(folder: Path, settings: dict[str, Any]) -> Health:
    host = _host(settings)
    paths = _urls(folder, settings.get("ROOT_URLCONF"))
    for name in HEALTH_NAMES:
        for path in paths:
            if path.strip("/").rpartition("/")[2] == name:
                return Health(f"/{path}", "the project has this route", host=host)
    if "" in paths:
        return Health("/", "the project has this route", host=host)
    if "admin/" in paths:
        return Health("/admin/login/", "the login page of the admin; a route of your own is better", host=host)
    return Health("/", "no route was found; set it to one that answers", status="200-499", host=host)


def _urls(folder: Path, module: object) -> list[str]:
    """First arguments of `path(…)` in the root URL configuration."""
    path = module_file(folder, module) if isinstance(module, str) else None
    source = parse(path) if path else None
    found: list[str] = []
    for node in ast.walk(source.tree) if source else ():
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "path" and node.args:
            text = text_of(node.args[0])
            if text is not None and "<" not in text:
                found.append(text)
    return found


def _host(settings: dict[str, Any]) -> str:
    """A host name that ALLOWED_HOSTS lets through; Django answers others with status 400."""
    hosts = settings.get("ALLOWED_HOSTS")
    names = [name.lstrip(".") for name in hosts if isinstance(name, str)] if isinstance(hosts, list) else []
    if not names or "*" in names or "localhost" in names:
        return "localhost"
    return names[0]
