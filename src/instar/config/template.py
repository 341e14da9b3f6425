"""The text of a new `instar.toml`."""

from __future__ import annotations

import json
from collections.abc import Iterable

from instar.config.discover.candidate import Candidate, Project

_HEAD = """\
# Configuration of instar for this project. Written by `instar init`.
# Relative paths start from the folder of this file. Times are seconds, or texts such as "10m".
# All keys: docs/configuration.md of instar, or `instar check --schema`.
"""

_TAIL = """
[restart]
# Time for the new code to load and to answer the probe; when it passes, the old code just goes on.
boot_timeout = 60
# Time for old requests to finish. Keep it longer than [web] keep_alive (30 s).
drain_timeout = 60
# Keep the old generation warm after a restart, so that `instar rollback` takes milliseconds.
# keep_old = "10m"
{before}
# Let a part of the clients try the new code first, and roll back by itself when it answers with errors.
# [restart.canary]
# share = "10%"
# duration = 30
# max_error_rate = 0.05

# Background workers with names that are never held twice, here NAME.mail.1 and NAME.mail.2. The function asks
# instar.current_handler() who it is; instead of target, script and command take programs that know nothing of instar.
# [handlers.mail]
# count = 2
# target = "mymodule:work"

# Any other command that belongs to the application.
# [services.mailer]
# command = ["{{python}}", "-m", "mailer"]
# handover = "restart"   # or "overlap": the new one starts before the old one stops; or "keep"

[log]
level = "info"
# format = "json"
# file = "log/instar.log"   # besides standard output; rotated
"""


def render(project: Project, candidate: Candidate | None) -> str:
    """The file for an application of a project; without one, a file to fill in."""
    parts = [_HEAD, _app(project, candidate), _web(candidate), _health(candidate)]
    return "".join(parts) + _TAIL.format(before=_before(candidate))


def _app(project: Project, candidate: Candidate | None) -> str:
    lines = [
        "",
        "[app]",
        "# Names the state directory and the processes; unique on this host.",
        f"name = {_text(project.name)}",
    ]
    if candidate is None:
        lines += ["# No application was found. Write where it is, as module:attribute.", 'target = "mymodule:app"']
        lines += ['# interface = "asgi"']
    else:
        lines += [f"# {candidate.framework}, found in {candidate.file}.", f"target = {_text(candidate.target)}"]
        lines += [
            f"# or: {_text(other.target)} ({_kind(other)})" for other in project.candidates if other is not candidate
        ][:5]
        lines += (
            ["# The target is a function that makes the application.", "factory = true"] if candidate.factory else []
        )
        lines += [f"interface = {_text(candidate.interface)}"]
        lines += [f"chdir = {_text(candidate.chdir)}"] if candidate.chdir != "." else []
        lines += [f"pythonpath = {_list(candidate.pythonpath)}"] if candidate.pythonpath else []
    lines += [
        "# The interpreter. Without it: .venv or venv in chdir, else the one that runs instar.",
        '# python = "/srv/mysite/venv/bin/python"',
        "# Secrets, one NAME=value a line; they are never shown.",
        '# env_file = ".env"',
        '# env = { NAME = "value" }',
    ]
    return "\n".join(lines) + "\n"


def _web(candidate: Candidate | None) -> str:
    lines = [
        "",
        "[web]",
        '# More than one is fine: "0.0.0.0:80", "[::]:80", "unix:run/web.sock".',
        'bind = ["127.0.0.1:8000"]',
        "# 0: one worker for each CPU.",
        "workers = 0",
        '# "granian", "uvicorn" or "gunicorn" from the environment of the application; or "command".',
        'engine = "granian"',
        "# Believe the forwarded headers of a reverse proxy:",
        '# trusted_proxies = ["127.0.0.1"]',
        "# Recycle a worker, without loss, when its private memory exceeds this:",
        '# max_memory = "300M"',
    ]
    static = candidate.static if candidate else ()
    if static:
        lines += ["", "# Files that are served without asking the application.", "[web.static]"]
        lines += [_static_line(item.prefix, item.folder, item.exists) for item in static]
    return "\n".join(lines) + "\n"


def _static_line(prefix: str, folder: str, exists: bool) -> str:
    line = f"{_text(prefix)} = {_text(folder)}"
    return line if exists else f"# {line}   # as soon as the folder exists"


def _health(candidate: Candidate | None) -> str:
    health = candidate.health if candidate else Candidate("", "", "wsgi", "", 0).health
    lines = [
        "",
        "# Every worker of a new generation must answer this before any client gets there.",
        "[health]",
        f"path = {_text(health.path)}   # {health.why}",
        f"status = {_text(health.status)}",
    ]
    lines += [f"host = {_text(health.host)}   # one of ALLOWED_HOSTS"] if health.host != "localhost" else []
    return "\n".join(lines) + "\n"


def _before(candidate: Candidate | None) -> str:
    commands = candidate.before if candidate else ()
    lines = ["# Commands before the new code boots; when one fails, the old code just goes on."]
    if not commands:
        return "\n".join([*lines, '# before = [["{python}", "migrate.py"]]', ""])
    rows = [f"#   {_list(command)}," for command in commands]
    return "\n".join([*lines, "# before = [", *rows, "# ]", ""])


def _kind(candidate: Candidate) -> str:
    return candidate.framework + (", factory = true" if candidate.factory else "")


def _text(value: str) -> str:
    # A JSON text is a TOML basic string (TOML 1.0), but for DEL, which no path of a sane project has.
    return json.dumps(value, ensure_ascii=False)


def _list(values: Iterable[str]) -> str:
    return "[" + ", ".join(_text(value) for value in values) + "]"
