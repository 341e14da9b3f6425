"""Scripts that run in a handler's own process: forked from the loaded application, run as `__main__` under the name."""

from __future__ import annotations

import builtins
import linecache
import os
import signal
import sys
import threading
from collections.abc import Iterable
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import CodeType, ModuleType

from instar.handlers.current import current_handler
from instar.runtime.ending import Ending
from instar.runtime.loader import LoadError
from instar.runtime.spec import HandlerSpec

#: As a shell tells of SIGTERM.
TERMINATED = 128 + signal.SIGTERM
_codes: dict[str, CodeType] = {}


def prepare(handlers: Iterable[HandlerSpec]) -> None:
    """In the zygote: compile the scripts of these handlers, for all processes of the generation.

    So a handler that is replaced runs what its generation was started with, and one that doesn't compile fails the
    boot. Raises LoadError for one that can't be read, SyntaxError or ValueError for one that is no Python.
    """
    for path in dict.fromkeys(item.script for item in handlers if item.script):
        try:
            source = Path(path).read_bytes()
        except OSError as error:
            why = (error.strerror or str(error)).lower()
            raise LoadError(f"cannot read {path}: {why}; check the script of the handlers") from error
        # Without our own `from __future__`. Bytes: the compiler finds the encoding.
        _codes[path] = compile(source, path, "exec", dont_inherit=True)
        text = source.decode(errors="replace")
        # A traceback shows these lines, also when the file has another release's by then.
        linecache.cache[path] = (len(text), None, text.splitlines(keepends=True), path)


def run(path: str) -> int:
    """In a handler that has its name: run the script as `python PATH` would; its exit status. Its errors come through.

    SIGTERM ends it at once, unless it has a handler of its own; it is sent when the name has to be released.
    """
    ending = Ending((signal.SIGTERM,), TERMINATED)
    ending.install()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    current_handler().on_release(lambda: ending.ask(signal.SIGTERM))
    sys.argv = [path]
    sys.path.insert(0, os.path.dirname(os.path.realpath(path)))  # noqa: PTH120
    status = _status(path, _main(path))
    # Threads that are no daemons are waited for, those of executors are told to end: the part of Py_FinalizeEx that
    # belongs to the main thread.
    threading._shutdown()  # type: ignore[attr-defined]
    return status


def _main(path: str) -> ModuleType:
    """What python makes of the module `__main__` of a file. It stays when the script has ended, for its threads."""
    main = ModuleType("__main__")
    loader = SourceFileLoader("__main__", path)
    main.__dict__.update(__builtins__=builtins, __file__=path, __cached__=None, __loader__=loader)
    sys.modules["__main__"] = main
    return main


def _status(path: str, main: ModuleType) -> int:
    try:
        exec(_codes[path], main.__dict__)  # noqa: S102 - the application itself
    except SystemExit as error:
        if error.code is None or isinstance(error.code, int):
            return error.code or 0
        print(error.code, file=sys.stderr, flush=True)
        return 1
    return 0
