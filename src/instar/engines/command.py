"""Any server that can listen on inherited descriptors; the worker process becomes that command.

The sockets are its descriptors from 3 on. `{fd}` and `{fds}` in the command are replaced by the first one and by
all of them (comma-separated); a command with neither is told through LISTEN_FDS (sd_listen_fds(3)), not both:
gunicorn would take each socket twice. The variables `INSTAR_*` of the worker's
environment and the scoreboard's descriptor go along, so that `instar.middleware` in the application can drain.

The command is ready as far as this process can tell when it starts; whether it answers is for the
supervisor's probe.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable

from instar.engines import becoming
from instar.engines.base import EngineOptions, ServeJob
from instar.errors import ConfigError

#: Named by the worker; stays open across the exec.
_SCOREBOARD_FD = "INSTAR_SCOREBOARD_FD"


def preload(options: EngineOptions) -> None:
    """Check that the command exists. Raises ConfigError."""
    if not options.command:
        raise ConfigError('cannot run engine "command": web.command is empty; give the argv of a server')
    if shutil.which(options.command[0]) is None:
        raise ConfigError(f"cannot run {options.command[0]!r}: no such program in PATH")


def serve(job: ServeJob) -> int:
    """Become the command. Does not return, unless the exec fails (OSError)."""
    preload(job.options)
    job.ready()
    job.gate.wait()
    fds = becoming.prepare(job.sockets, (_SCOREBOARD_FD,))
    argv = expand(job.options.command, fds)
    for name in ("LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES"):
        os.environ.pop(name, None)
    if argv == list(job.options.command):
        os.environ.update(
            LISTEN_FDS=str(len(fds)),
            LISTEN_PID=str(os.getpid()),
            LISTEN_FDNAMES=":".join("web" for _ in fds),
        )
    os.execvp(argv[0], argv)  # noqa: S606


def expand(command: Iterable[str], fds: list[int]) -> list[str]:
    """The argv with `{fd}` and `{fds}` replaced; other braces stay as they are."""
    return [item.replace("{fds}", ",".join(map(str, fds))).replace("{fd}", str(fds[0])) for item in command]
