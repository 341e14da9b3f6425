"""What all vassals of an Emperor share, and how each of their processes is started."""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path

from instar.supervisor.changes import Changes
from instar.supervisor.tasks import Tasks
from instar.system import System
from instar.uwsgi.emperor.environment import environment
from instar.uwsgi.emperor.fdstore import FdStore
from instar.uwsgi.emperor.process import VassalProcess, start
from instar.uwsgi.emperor.roll import Roll
from instar.uwsgi.emperor.safe import Safe
from instar.uwsgi.emperor.settings import EmperorSettings
from instar.uwsgi.emperor.vassal_file import Kind, VassalFile

_PLAIN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}\Z")


@dataclasses.dataclass(frozen=True)
class Surroundings:
    """Handed to every vassal."""

    settings: EmperorSettings
    #: The Emperor's state directory.
    root: Path
    output: Path
    system: System
    changes: Changes
    tasks: Tasks
    store: FdStore
    roll: Roll
    safe: Safe
    log: Callable[[str], None]
    #: Address for NOTIFY_SOCKET.
    notify: str
    #: Handle notices that have come in.
    catch_up: Callable[[], None]

    def spawn(self, file: VassalFile, argv: Sequence[str], *, standin: bool = False) -> VassalProcess:
        """Start a process of a vassal; `standin`: the restarter of a dance. Raises OSError."""
        # A pool that has just ended may have stored its sockets as its last act.
        self.catch_up()
        name = file.found.name
        fd = self.system.open_append(self.output / f"{_plain(f'{name}.restarter' if standin else name)}.out")
        try:
            process = start(
                argv,
                file.kind,
                env=environment(os.environ, file, self.notify),
                cwd=str(self.settings.directory),
                output=fd,
                # The real uWSGI would take them for socket activation.
                stored=() if file.kind is Kind.UWSGI else self.store.of(name),
                system=self.system,
                changes=self.changes,
            )
        finally:
            os.close(fd)
        self.register(file, process, standin=standin)
        return process

    def register(self, file: VassalFile, process: VassalProcess, *, standin: bool) -> None:
        """So that the next Emperor finds it, if this one dies."""
        key = f"link:{process.pid}"
        self.roll.enter(file.found, process, standin=standin)
        if process.link is not None:
            self.safe.put(key, process.link.socket.fileno())

        def end() -> None:
            self.roll.strike(process.pid)
            self.safe.take(key)

        process.on_end = end


def _plain(name: str) -> str:
    """A name that the follower of the output takes."""
    return "v" + re.sub(r"[^A-Za-z0-9._-]", "_", name)[:90] if not _PLAIN.match(name) else name
