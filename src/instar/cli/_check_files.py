"""Checks of files, folders, programs and users that a configuration names."""

from __future__ import annotations

import os
import shutil
import ssl
import stat
from collections.abc import Iterator
from pathlib import Path

from instar.cli._findings import Finding, error, ok, warning
from instar.config import Config, expand_command, read_env_file
from instar.config.hook import Hook
from instar.errors import ConfigError
from instar.supervisor.plan import Credentials, socket_owner


def check_files(config: Config) -> Iterator[Finding]:
    """Everything on disk, but for the interpreter."""
    yield from _folders(config)
    yield from _env_file(config)
    yield from _tls(config)
    yield from _user(config)
    yield from _socket_owner(config)
    yield from _scripts(config)
    yield from _log(config)
    yield _state(config.state_dir())


def _folders(config: Config) -> Iterator[Finding]:
    app = config.app
    folders = [("[app] chdir", app.chdir)]
    folders += [("[app] pythonpath", path) for path in app.pythonpath]
    folders += [(f"[web.static] {prefix}", folder) for prefix, folder in config.web.static.items()]
    folders += [(f"[services.{name}] chdir", item.chdir) for name, item in config.services.items() if item.chdir]
    for subject, folder in folders:
        if not folder.exists():
            yield error(subject, f"there is no folder {folder}")
        elif not folder.is_dir() and not (subject == "[app] pythonpath" and folder.suffix in (".zip", ".whl")):
            yield error(subject, f"{folder} is not a folder")
        elif not os.access(folder, os.R_OK | os.X_OK):
            yield error(subject, f"cannot read the folder {folder}: permission denied")
        else:
            yield ok(subject, str(folder))


def _env_file(config: Config) -> Iterator[Finding]:
    path = config.app.env_file
    if path is None:
        return
    try:
        variables = read_env_file(path)
    except ConfigError as problem:
        yield error("[app] env_file", str(problem))
        return
    if path.stat().st_mode & stat.S_IROTH:
        yield warning("[app] env_file", f"everybody on this host can read {path}; chmod 600 it")
    yield ok("[app] env_file", f"{len(variables)} variables: {', '.join(variables) or 'none'}")


def _tls(config: Config) -> Iterator[Finding]:
    web = config.web
    if web.tls_cert is None or web.tls_key is None:
        return
    for subject, path in (("[web] tls_cert", web.tls_cert), ("[web] tls_key", web.tls_key)):
        if not path.is_file():
            yield error(subject, f"there is no file {path}")
            return
        if not os.access(path, os.R_OK):
            yield error(subject, f"cannot read {path}: permission denied")
            return
    name = web.tls_key_password_env
    if name and name not in os.environ:
        yield error("[web] tls_key_password_env", f"the environment of instar has no variable {name}")
        return
    try:
        # Without a password given, OpenSSL would ask for one at the terminal.
        password = os.environ.get(name, "") if name else ""
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(web.tls_cert, web.tls_key, lambda: password)
    except (ssl.SSLError, ValueError) as problem:
        yield error("[web] tls_cert", f"cannot use {web.tls_cert} with {web.tls_key}: {_tls_reason(problem)}")
    else:
        yield ok("[web] tls_cert", f"{web.tls_cert} fits its key")


def _tls_reason(problem: Exception) -> str:
    reason = getattr(problem, "reason", None) or str(problem)
    known = {
        "KEY_VALUES_MISMATCH": "the key belongs to another certificate",
        "NO_START_LINE": "it is not in PEM format",
        "BAD_DECRYPT": "the password of the key is wrong",
        "BAD_PASSWORD_READ": "the key has a password; name its variable in [web] tls_key_password_env",
    }
    return known.get(str(reason), str(reason).lower().replace("_", " "))


def _user(config: Config) -> Iterator[Finding]:
    if config.app.user or config.app.group:
        try:
            Credentials.of(config)
        except ConfigError as problem:
            yield error("[app] user", str(problem))
        else:
            yield ok("[app] user", ":".join(filter(None, (config.app.user, config.app.group))))
    elif os.geteuid() == 0:
        yield warning("[app] user", "the application would run as root; name a user for it")


def _socket_owner(config: Config) -> Iterator[Finding]:
    try:
        owner = socket_owner(config)
    except ConfigError as problem:
        yield error("[web] socket_owner", str(problem))
        return
    if owner is None:
        return
    if os.geteuid() and owner[0] not in (-1, os.geteuid()):
        yield error("[web] socket_owner", "only root can give sockets to another user")
    else:
        yield ok("[web] socket_owner", config.web.socket_owner)


def _scripts(config: Config) -> Iterator[Finding]:
    for name, item in config.handlers.items():
        if item.script is None:
            continue
        if not item.script.is_file():
            yield error(f"[handlers.{name}] script", f"there is no file {item.script}")
        elif not os.access(item.script, os.R_OK):
            yield error(f"[handlers.{name}] script", f"cannot read {item.script}: permission denied")
        else:
            yield ok(f"[handlers.{name}] script", str(item.script))


def _log(config: Config) -> Iterator[Finding]:
    path = config.log.file
    if path is None:
        return
    if path.is_dir():
        yield error("[log] file", f"{path} is a folder")
    elif path.exists() and not os.access(path, os.W_OK):
        yield error("[log] file", f"cannot write to {path}: permission denied")
    elif not path.parent.is_dir():
        yield error("[log] file", f"there is no folder {path.parent}")
    elif not path.exists() and not os.access(path.parent, os.W_OK | os.X_OK):
        yield error("[log] file", f"cannot write to {path.parent}: permission denied")
    else:
        yield ok("[log] file", str(path))


def _state(path: Path) -> Finding:
    if path.exists():
        if not path.is_dir():
            return error("state directory", f"{path} is not a folder")
        if not os.access(path, os.W_OK | os.X_OK):
            return error("state directory", f"cannot write to {path}: permission denied; it belongs to another user")
    elif not _can_create(path):
        return error(
            "state directory",
            f"cannot make {path}: {_above(path)} is not a folder that we may write to; set INSTAR_STATE_DIR",
        )
    return ok("state directory", str(path))


def _above(path: Path) -> Path:
    """The nearest thing above that exists."""
    return next(parent for parent in path.parents if parent.exists())


def _can_create(path: Path) -> bool:
    above = _above(path)
    return above.is_dir() and os.access(above, os.W_OK | os.X_OK)


def check_programs(config: Config, python: Path, path_variable: str | None) -> Iterator[Finding]:
    """Programs of hooks, services, handlers and the `command` engine."""
    app = config.app.chdir
    hooks: list[tuple[str, Hook]] = []
    for key in ("before", "after", "on_rollback"):
        hooks += [(f"[restart] {key}", hook) for hook in getattr(config.restart, key)]
    commands = [(subject, hook.command, app) for subject, hook in hooks]
    commands += [(f"[services.{name}]", item.command, item.chdir or app) for name, item in config.services.items()]
    commands += [(f"[handlers.{name}]", item.command, app) for name, item in config.handlers.items() if item.command]
    if config.web.engine == "command":
        commands.append(("[web] command", config.web.command, app))
    for subject, command, folder in commands:
        program = expand_command(command, python)[0]
        if _find(program, folder, path_variable) is None:
            yield error(subject, f"there is no program {program}")
        else:
            yield ok(subject, " ".join(command))


def _find(program: str, folder: Path, path_variable: str | None) -> str | None:
    if "/" in program:
        path = folder / program
        return str(path) if path.is_file() and os.access(path, os.X_OK) else None
    return shutil.which(program, path=path_variable)
