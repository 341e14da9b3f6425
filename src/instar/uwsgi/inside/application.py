"""Loads what a uWSGI file serves where `module:attribute` can't say it: files, mounts, several applications, none."""

from __future__ import annotations

import dataclasses
import importlib
import sys
import threading
import traceback
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from instar.errors import InstarError
from instar.runtime import extension
from instar.runtime.loader import LoadError
from instar.uwsgi.inside import files
from instar.uwsgi.inside.data import InsideData
from instar.uwsgi.inside.extension import UwsgiExtension

#: Switches that leave no single application in charge.
_DISPATCHED = ("manage-script-name", "no-default-app")

WsgiApp = Callable[[dict[str, Any], Any], Iterable[bytes]]


@dataclasses.dataclass(frozen=True)
class Mounted:
    """One application. `mountpoint` as in PATH_INFO (PEP 3333), without a slash at its end; empty: not mounted."""

    mountpoint: str
    app: WsgiApp


def build() -> WsgiApp:
    """Target of the generation: everything that the options name, in one WSGI application.

    Raises LoadError, or what the application raises; not with `need-app: false`, which serves what could be loaded.
    """
    inside = extension.get()
    if not isinstance(inside, UwsgiExtension):
        raise InstarError("cannot load an application of uWSGI: this process isn't run by `instar uwsgi`")
    return Builder(inside.data).build()


class Builder:
    """Loads by the options, in uWSGI's order: module, file, mounts (core/uwsgi.c, python_plugin.c)."""

    def __init__(self, data: InsideData) -> None:
        self._data = data
        self._callable = data.last("callable")
        self._needed = data.flag("need-app", default=True)

    def build(self) -> WsgiApp:
        """The application that serves them all."""
        apps = list(self._load_all())
        if not apps and self._needed:
            raise LoadError("cannot find an application: give module, wsgi-file or mount, or need-app: false")
        if not apps:
            print("*** no application is loaded: every request is answered with 500 ***", file=sys.stderr, flush=True)
        if self._needed and len(apps) == 1 and not any(map(self._data.flag, _DISPATCHED)):
            return apps[0].app
        return Dispatcher(
            apps,
            self.load_module,
            self.load_file,
            manage=self._data.flag("manage-script-name"),
            default=not self._data.flag("no-default-app"),
        )

    def _load_all(self) -> Iterator[Mounted]:
        taken: set[str] = set()
        for mountpoint, load, what in self._wanted():
            try:
                found = load(what)
            except (Exception, SystemExit):
                if self._needed:
                    raise
                traceback.print_exc()
                continue
            for point, app in self._split(mountpoint, found, what):
                if point in taken:
                    print(f"*** {point or '/'} has an application already: {what} is left out ***", file=sys.stderr)
                else:
                    taken.add(point)
                    yield Mounted(point, app)

    def _wanted(self) -> Iterator[tuple[str, Callable[[str], Any], str]]:
        data = self._data
        single: tuple[tuple[str | None, Callable[[str], Any]], ...] = (
            (data.last("module", "wsgi", "w"), self.load_module),
            (data.last("wsgi-file", "file"), self.load_file),
        )
        yield from (("", load, what) for what, load in single if what)
        for mount in data.all("mount"):
            point, equals, what = mount.partition("=")
            if not equals:
                raise LoadError(f"cannot mount {mount}: it must be /PATH=APPLICATION")
            yield _mountpoint(point), self._load_mounted, what

    def _split(self, mountpoint: str, found: Any, what: str) -> Iterator[tuple[str, WsgiApp]]:
        """An application, or a dictionary of them (`applications`) by mountpoint."""
        if not isinstance(found, dict):
            yield mountpoint, _checked(found, what)
            return
        for point, app in found.items():
            if isinstance(app, str | bytes):
                app = getattr(importlib.import_module(what.partition(":")[0]), _text(app))
            yield _mountpoint(_text(point)), _checked(app, what)

    # --- loaders ----------------------------------------------------------------------------------

    def load_module(self, what: str) -> Any:
        """`MODULE`, `MODULE:NAME` or `MODULE:NAME()`; a dictionary called `applications` comes first."""
        name, colon, attribute = what.partition(":")
        attribute = attribute if colon else self._callable or "application"
        module = importlib.import_module(name)
        several = getattr(sys.modules.get("uwsgi"), "applications", None) or module.__dict__.get("applications")
        if isinstance(several, dict):
            return several
        found = _attribute(module, attribute.removesuffix("()"), what)
        return found() if attribute.endswith("()") else found

    def load_file(self, path: str) -> Any:
        """A Python file, whatever it is called."""
        try:
            module = files.run_file(f"uwsgi_file_{files.module_name(path)}", path)
        except OSError as error:
            if error.filename != path:
                raise
            raise LoadError(f"cannot read {path}: {(error.strerror or str(error)).lower()}") from error
        return _attribute(module, self._callable or "application", path)

    def _load_mounted(self, what: str) -> Any:
        if what.endswith((".py", ".wsgi")):
            return self.load_file(what)
        if ":" in what:
            return self.load_module(what)
        raise LoadError(f"cannot mount {what}: it must be a .py or .wsgi file, or MODULE:NAME")


class Dispatcher:
    """Chooses the application of a request as uWSGI does: by SCRIPT_NAME, else the one that was loaded first.

    Requests may bring an application of their own (UWSGI_MODULE, UWSGI_FILE, UWSGI_SCRIPT, set by the front server).
    """

    def __init__(
        self,
        apps: list[Mounted],
        load_module: Callable[[str], Any],
        load_file: Callable[[str], Any],
        *,
        manage: bool,
        default: bool,
    ) -> None:
        self._apps = apps
        self._by_mountpoint = {item.mountpoint: item.app for item in apps}
        self._load_module = load_module
        self._load_file = load_file
        self._manage = manage
        self._default = apps[0].app if apps and default else None
        self._loading = threading.Lock()

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        """One request."""
        if self._manage:
            self._set_script_name(environ)
        key = environ.get("UWSGI_APPID") or environ.get("SCRIPT_NAME", "").rstrip("/")
        app = self._by_mountpoint.get(key) or self._dynamic(environ, key) or self._default
        if app is None:
            print("--- no python application found, check your startup logs for errors ---", file=sys.stderr)
            start_response("500 Internal Server Error", [("Content-Type", "text/plain")])
            return [b"Internal Server Error"]
        return app(environ, start_response)

    def _set_script_name(self, environ: dict[str, Any]) -> None:
        path = environ.get("PATH_INFO", "")
        points = [item.mountpoint for item in self._apps]
        best = max((point for point in points if f"{path}/".startswith(f"{point}/")), key=len, default="")
        if best:
            environ["SCRIPT_NAME"], environ["PATH_INFO"] = best, path[len(best) :]

    def _dynamic(self, environ: dict[str, Any], key: str) -> WsgiApp | None:
        if not any(f"UWSGI_{name}" in environ for name in ("SCRIPT", "MODULE", "FILE")):
            return None
        with self._loading:
            if key not in self._by_mountpoint:
                try:
                    self._by_mountpoint[key] = _checked(self._load_for(environ), key)
                except (Exception, SystemExit):
                    traceback.print_exc()
                    return None
            return self._by_mountpoint[key]

    def _load_for(self, environ: dict[str, Any]) -> Any:
        if script := environ.get("UWSGI_SCRIPT"):
            return self._load_module(script)
        if module := environ.get("UWSGI_MODULE"):
            name = environ.get("UWSGI_CALLABLE")
            return self._load_module(f"{module}:{name}" if name else module)
        return self._load_file(environ["UWSGI_FILE"])


def _mountpoint(text: str) -> str:
    # PATH_INFO holds the bytes of the path as latin-1 characters.
    return text.rstrip("/").encode(errors="surrogateescape").decode("latin-1")


def _attribute(module: Any, name: str, what: str) -> Any:
    try:
        return getattr(module, name)
    except AttributeError:
        raise LoadError(f"cannot find {name!r} in {what}: check the options module, wsgi-file and callable") from None


def _checked(app: Any, what: str) -> WsgiApp:
    if not callable(app):
        raise LoadError(f"cannot serve {what}: it is not callable ({type(app).__name__})")
    found: WsgiApp = app
    return found


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value
