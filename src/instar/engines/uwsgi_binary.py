"""The real uWSGI on the worker's sockets; the worker process becomes it.

It serves both protocols, loads the application itself, and runs it with instar's middleware and watch thread
(`instar.runtime.uwsgi_entry`), so that draining, probes and counters work as in other engines. What it can't do:
it has no way to stop accepting and go on serving, HTTP connections end with their response, and an HTTP request whose
body comes in chunks arrives without it: a proxy in front, which speaks the uwsgi protocol, is what this is for.
"""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
import sys
from pathlib import Path

from instar.engines import becoming
from instar.engines.base import EngineOptions, ListenSocket, ServeJob
from instar.engines.uwsgi_protocol import require_wsgi
from instar.errors import ConfigError

#: Set by the worker; these descriptors stay open across the exec.
_DESCRIPTORS = ("INSTAR_SCOREBOARD_FD", "INSTAR_SPEC_FD")
_ENTRY = Path(__file__).absolute().parents[1] / "runtime" / "uwsgi_entry.py"


def preload(options: EngineOptions) -> None:
    """Find the program. Raises ConfigError when there is none, or when it embeds another Python."""
    program = find()
    embedded, ours = _python_of(program), ".".join(map(str, sys.version_info[:2]))
    if embedded.split(".")[:2] != ours.split("."):
        raise ConfigError(
            f"cannot use {program}: it embeds Python {embedded or 'of no version that it tells'}, and the application "
            f"has {ours}; pip install uwsgi in the application's environment"
        )


def find() -> str:
    """Path of the program: the one beside the application's interpreter, else from PATH. Raises ConfigError."""
    beside = str(Path(sys.executable).parent)
    found = shutil.which("uwsgi", path=os.pathsep.join((beside, os.environ.get("PATH", os.defpath))))
    if found is None:
        raise ConfigError("cannot use engine 'uwsgi': there is no uwsgi; pip install uwsgi in the application's venv")
    return found


@functools.lru_cache(maxsize=1)
def _python_of(program: str) -> str:
    try:
        answer = subprocess.run(
            [program, "--python-version"], capture_output=True, text=True, timeout=10, env={}, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ConfigError(f"cannot use {program}: {error}") from error
    return answer.stdout.strip()


def serve(job: ServeJob) -> int:
    """Become uWSGI. Does not return, unless the exec fails (OSError)."""
    require_wsgi(job)
    program = find()
    job.ready()
    job.gate.wait()
    fds = becoming.prepare(job.sockets, _DESCRIPTORS)
    # An Emperor's or another instance's variables would make it believe that it is somebody's vassal, or reloaded.
    environ = {name: value for name, value in os.environ.items() if not name.startswith("UWSGI_")}
    argv = [program, *arguments(job.options, list(zip(job.sockets, fds, strict=True)))]
    os.execve(program, argv, {**environ, "INSTAR_LISTEN_FDS": ",".join(map(str, fds))})  # noqa: S606


def arguments(options: EngineOptions, sockets: list[tuple[ListenSocket, int]]) -> list[str]:
    """uWSGI's options: one process, no master, since the zygote does what a master would."""
    argv = []
    for item, fd in sockets:
        argv += ["--uwsgi-socket" if item.protocol == "uwsgi" else "--http-socket", f"fd://{fd}"]
    argv += ["--wsgi-file", str(_ENTRY), "--need-app", "--single-interpreter", "--enable-threads"]
    argv += ["--processes", "1", "--threads", str(max(1, options.threads)), "--disable-logging"]
    timeout = max(1, round(options.uwsgi_timeout))
    argv += ["--buffer-size", str(options.uwsgi_buffer_size), "--socket-timeout", str(timeout)]
    # Its HTTP server closes every connection, and has to say so.
    argv += ["--add-header", "Connection: close", "--auto-procname"]
    if sys.prefix != sys.base_prefix:
        argv += ["--home", sys.prefix]
    return argv
