"""Imports the application once and finds out what it is."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import inspect
import os
import socket
import sys
import threading
import traceback
from pathlib import Path
from typing import Any

from instar.engines.base import Interface
from instar.errors import InstarError


class LoadError(InstarError):
    """The application can't be loaded. The cause, if any, is the application's own exception."""


@dataclasses.dataclass(frozen=True)
class Application:
    """A loaded application."""

    callable: Any
    interface: Interface


def load(target: str, *, factory: bool, interface: str) -> Application:
    """Import `module:attr`, call it if it is a factory, and tell WSGI from ASGI.

    Raises LoadError; errors of the application's own code come through as they are.
    """
    module_name, _, attr_path = target.partition(":")
    try:
        value: Any = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        # Only when the target itself is missing; a missing import inside it is the application's own error.
        if error.name is None or not (module_name + ".").startswith(error.name + "."):
            raise
        raise LoadError(f"cannot import {module_name}: no such module; check app.target and app.pythonpath") from error
    for name in (attr_path or "application").split("."):
        try:
            value = getattr(value, name)
        except AttributeError:
            raise LoadError(f"cannot find {attr_path!r} in {module_name}: check app.target") from None
    if factory:
        value = value()
    if not callable(value):
        raise LoadError(f"cannot serve {target}: it is not callable ({type(value).__name__})")
    return Application(value, _interface(value, interface))


def _interface(app: Any, wanted: str) -> Interface:
    if wanted == "wsgi":
        return "wsgi"
    if wanted == "asgi":
        return "asgi"
    call = app if inspect.isfunction(app) or inspect.ismethod(app) else type(app).__call__
    if inspect.iscoroutinefunction(app) or inspect.iscoroutinefunction(call):
        return "asgi"
    with contextlib.suppress(TypeError, ValueError):
        parameters = [
            p
            for p in inspect.signature(app).parameters.values()
            if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)
        ]
        return "asgi" if len(parameters) == 3 else "wsgi"
    return "wsgi"


class ForkHazards:
    """What an import left behind that a fork would break: threads, and connections that workers would share."""

    def __init__(self) -> None:
        self._tasks = self._native_tasks()
        self._connections = self._connected()

    def found(self) -> list[str]:
        """One sentence each for what has appeared since construction."""
        notes = []
        threads = [t.name for t in threading.enumerate() if t is not threading.main_thread()]
        new = len(self._native_tasks() - self._tasks)
        if new:
            names = ", ".join(threads) or "native"
            notes.append(f"the import started {new} thread(s) ({names}), which a fork would lose")
        for fd, name in sorted(self._connected().items()):
            if self._connections.get(fd) != name:
                notes.append(f"the import opened a connection to {name}, which the workers would share")
        return notes

    @staticmethod
    def _native_tasks() -> set[str]:
        return set(os.listdir("/proc/self/task"))

    @staticmethod
    def _connected() -> dict[int, str]:
        found: dict[int, str] = {}
        for entry in os.listdir("/proc/self/fd"):
            with contextlib.suppress(OSError):
                if not str(Path("/proc/self/fd", entry).readlink()).startswith("socket:"):
                    continue
                with socket.socket(fileno=os.dup(int(entry))) as sock:
                    peer = sock.getpeername()
                    # Unnamed UNIX pairs (an event loop's own wake-up) are harmless.
                    if peer:
                        found[int(entry)] = ":".join(map(str, peer[:2])) if isinstance(peer, tuple) else str(peer)
        return found


def prepare_path(chdir: str, pythonpath: tuple[str, ...]) -> None:
    """Go to the release and make its modules importable, its own folder first."""
    os.chdir(chdir)
    for entry in reversed((chdir, *pythonpath)):
        if entry in sys.path:
            sys.path.remove(entry)
        sys.path.insert(0, entry)


def explain(error: BaseException) -> str:
    """The traceback of a failed load without the frames of the import machinery and of ours."""
    if isinstance(error, InstarError):
        return f"{error}\n"
    ours = str(Path(__file__).absolute().parents[1])
    machinery = str(Path(importlib.__file__ or "").parent)
    shown = traceback.TracebackException.from_exception(error)
    for part in _chain(shown):
        frames = [f for f in part.stack if not f.filename.startswith(("<frozen importlib", machinery, ours))]
        part.stack = traceback.StackSummary.from_list(frames or list(part.stack)[-1:])
    return "".join(shown.format())


def _chain(error: traceback.TracebackException | None) -> list[traceback.TracebackException]:
    if error is None:
        return []
    return [error, *_chain(error.__cause__), *_chain(error.__context__)]
