"""A `uwsgi` module without a supervisor: what the extension makes of options, in this process or in one of its own."""

from __future__ import annotations

import contextlib
import os
import socket
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from instar.engines.base import EngineOptions
from instar.handlers import messages
from instar.handlers.messages import QueueSpec
from instar.runtime import extension
from instar.runtime.scoreboard import Scoreboard
from instar.runtime.spec import ExtensionSpec, GenerationSpec, HandlerSpec
from instar.uwsgi.inside.extension import UwsgiExtension

Options = Sequence[tuple[str, str | None]]


def mule(number: int, name: str, **more: Any) -> dict[str, Any]:
    """A mule as `instar.uwsgi.extension` writes it."""
    return {"number": number, "name": name, "pool": "p", "script": "", "target": "", "farms": [], **more}


class Inside:
    """An extension, its queues and what it asked for."""

    def __init__(self, folder: Path, options: Options = (), *, mules: Sequence[dict[str, Any]] = (), lazy: Any = None):
        self.asked: list[str] = []
        farms: dict[str, list[int]] = {}
        for item in mules:
            for farm in item["farms"]:
                farms.setdefault(farm, []).append(item["number"])
        data = {"options": [list(pair) for pair in options], "mules": list(mules), "farms": farms, "later": 1}
        self._pairs = {
            name: socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
            for name in (["uwsgi:mules", *(item["name"] for item in mules), *farms] if mules else [])
        }
        queues = tuple(QueueSpec(name, a.fileno(), b.fileno()) for name, (a, b) in self._pairs.items())
        self.board = Scoreboard.create(4)
        spec = GenerationSpec(
            generation=1, app_name="app", target="", factory=False, interface="wsgi", chdir=str(folder), pythonpath=(),
            slot="a", workers=2, engine="granian", options=EngineOptions(threads=1), listeners=(), control_fd=-1,
            scoreboard_fd=-1, output_dir=str(folder), nonce="", handler_dir=str(folder), queues=queues, lazy=lazy,
            extension=ExtensionSpec("instar.uwsgi.inside.extension:UwsgiExtension", data),
        )  # fmt: skip
        self.extension = UwsgiExtension(spec, self.board, self.asked.append)
        messages.install_queues({queue.name: queue.ends for queue in queues})

    @property
    def module(self) -> Any:
        """`import uwsgi`."""
        return self.extension.module

    def become(self, name: str) -> None:
        """Be the mule of this name."""
        self.extension.in_handler(HandlerSpec(name, "p", 1))

    def close(self) -> None:
        """Take everything back."""
        if messages._mailbox is not None:
            messages._mailbox.detach()
            messages._mailbox = None
        for pair in self._pairs.values():
            for end in pair:
                end.close()
        self.board.close()


@contextlib.contextmanager
def installed(inside: Inside, monkeypatch: Any) -> Iterator[Any]:
    """`import uwsgi` and `import uwsgidecorators` work meanwhile."""
    argv, path, finders, modules = list(sys.argv), list(sys.path), list(sys.meta_path), dict(sys.modules)
    monkeypatch.setattr(extension, "_current", inside.extension)
    try:
        inside.extension.before_load()
        yield inside.module
    finally:
        sys.argv[:], sys.path[:], sys.meta_path[:] = argv, path, finders
        for name in set(sys.modules) - set(modules):
            del sys.modules[name]


class Child:
    """A forked process that runs a function; `result` is what it returned, as text."""

    def __init__(self, body: Callable[[], object]) -> None:
        read, write = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            try:
                os.close(read)
                os.write(write, str(body()).encode())
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(0)
        os.close(write)
        self._read = read

    def result(self) -> str:
        """Wait for its end."""
        with os.fdopen(self._read) as file:
            text = file.read()
        os.waitpid(self.pid, 0)
        return text
