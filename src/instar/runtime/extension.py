"""Code of instar's own that takes part in every process of a generation at fixed points.

An extension is named in the generation's spec, never by the application: it gives the processes of one kind of
configuration what others must not see (the `uwsgi` module under `instar uwsgi`).
"""

from __future__ import annotations

import contextlib
import importlib
import json
import traceback
from collections.abc import Callable
from typing import Any

from instar.errors import InstarError
from instar.runtime.loader import Application
from instar.runtime.scoreboard import Scoreboard
from instar.runtime.spec import GenerationSpec, HandlerSpec

#: What an application may ask of its supervisor through an extension.
RELOAD, STOP = "reload", "stop"


class Extension:
    """Base of all extensions: does nothing. Made once, in the zygote; its forked children inherit it.

    Named as `module:class`; called with the spec (its part is `spec.extension.data`), the scoreboard, and a function
    that asks the supervisor for something (`RELOAD`, `STOP`), for any process. Errors of `before_load` and of
    `loaded` fail the boot like errors of the application.
    """

    def __init__(self, spec: GenerationSpec, board: Scoreboard, ask: Callable[[str], object]) -> None:
        self.spec = spec
        self.board = board
        self.ask = ask

    def before_load(self) -> None:
        """In the zygote: the application's folder is current, none of its code is imported yet."""

    def loaded(self, app: Application) -> None:
        """The application is loaded: in the zygote; in each process that loads for itself when it is lazy."""

    def loads_in(self, handler: HandlerSpec) -> bool:
        """Whether a handler of a lazy generation loads the application before its target runs."""
        return True

    def in_worker(self, index: int, row: int) -> None:
        """In a worker right after its fork, before the post-fork hooks. `index` counts from 1."""

    def before_serving(self) -> None:
        """In a worker: the application is loaded, the server is about to start."""

    def in_handler(self, handler: HandlerSpec) -> None:
        """In a handler right after its fork, before the post-fork hooks; it doesn't hold its name yet."""

    def at_exit(self) -> None:
        """In a worker or handler that ends by itself, before the application's exit handlers."""


_current: Extension | None = None


def install(spec: GenerationSpec, board: Scoreboard, tell: Callable[[bytes], object]) -> Extension:
    """Make the extension that the spec names, or one that does nothing; the zygote calls it. Raises InstarError."""
    global _current
    named = spec.extension

    def ask(what: str) -> None:
        tell(json.dumps({"event": "ask", "what": what}).encode())

    _current = (_find(named.target) if named else Extension)(spec, board, ask)
    return _current


def get() -> Extension | None:
    """The extension of this process."""
    return _current


def run_at_exit() -> None:
    """Call its `at_exit`; what it raises is printed. For forked children only."""
    if _current is not None:
        try:
            _current.at_exit()
        except BaseException:
            with contextlib.suppress(BaseException):
                traceback.print_exc()


def _find(target: str) -> Callable[..., Extension]:
    module, _, name = target.partition(":")
    try:
        found: Any = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise InstarError(f"cannot load the extension {target}: {error}; this is a defect of instar") from error
    made: Callable[..., Extension] = found
    return made
