"""uWSGI's options as a configuration of instar, in the layout of `instar.toml`."""

from __future__ import annotations

import glob
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from instar.config.address import parse_address
from instar.config.formats.uwsgi import Surroundings, UwsgiConfig
from instar.config.uwsgi import LARGEST_PACKET
from instar.errors import ConfigError
from instar.uwsgi.model import Application, Mule

#: What runs a mule inside the application's zygote.
MULE_TARGET = "instar.uwsgi.inside.mule:run"
#: uWSGI waits for ever; a large application needs more than a minute.
BOOT_TIMEOUT = 300
#: uWSGI's defaults.
BUFFER_SIZE = 4096
SOCKET_TIMEOUT = 4
BACKLOG = 100
#: More would only wait for each other.
MOST_THREADS = 32
MERCY = 60

HOME = ("virtualenv", "venv", "home", "pyhome")
PYTHONPATH = ("pythonpath", "python-path", "pp")
CHECK_STATIC = ("check-static", "static-check")
_UMASK = r"0?[0-7]{1,3}"
LOG_FILES = ("logto", "logto2", "daemonize", "daemonize2")


def name_of(source: Path | None) -> str:
    """Name of the state directory: the file's without its ending, with a `-` for what a name can't have."""
    name = re.sub(r"[^A-Za-z0-9_.-]", "-", source.stem if source else "uwsgi").lstrip("-._")[:64]
    return name or "uwsgi"


def app(config: UwsgiConfig, surroundings: Surroundings, application: Application, base: Path) -> dict[str, Any]:
    """`[app]` without name and target."""
    result: dict[str, Any] = {
        "interface": "wsgi",
        "chdir": str(base),
        "pythonpath": list(_pythonpath(config, surroundings, base)),
        "env": dict(_environment(config)),
        "lazy": True if application.lazy else "auto",
        # What ran under uWSGI may call sudo, or sendmail.
        "no_new_privs": False,
    }
    if re.fullmatch(_UMASK, umask := config.text("umask")):
        result["umask"] = umask
    if home := config.text(*HOME):
        result["python"] = str(base / home / "bin/python")
    # Only root can change it; uWSGI leaves it out in silence otherwise.
    if surroundings.uid == 0:
        result |= {key: value for key, value in _user(config).items() if value}
    return result


def _user(config: UwsgiConfig) -> dict[str, str]:
    return {
        "user": config.text("uid", "immediate-uid"),
        "group": config.text("gid", "immediate-gid"),
    }


def _pythonpath(config: UwsgiConfig, surroundings: Surroundings, base: Path) -> Iterator[str]:
    for value in config.texts(*PYTHONPATH):
        # Patterns are matched before chdir, the matches are used after it, as in uWSGI.
        for item in sorted(glob.glob(value, root_dir=surroundings.cwd)) or [value]:  # noqa: PTH207
            yield str(base / item)


def _environment(config: UwsgiConfig) -> Iterator[tuple[str, str]]:
    for value in config.texts("env"):
        name, equals, content = value.partition("=")
        if equals:
            yield name, content


def socket_mode(config: UwsgiConfig) -> int | None:
    """Permissions of UNIX sockets; None: the file doesn't say. Raises ConfigError."""
    option = config.last("chmod-socket", "chmod")
    if option is None:
        umask = config.text("umask")
        return 0o777 & ~int(umask, 8) if re.fullmatch(_UMASK, umask) else None
    if option.bare or not option.value:
        return 0o666
    if not re.fullmatch(r"0?[0-7]{3}", option.value):
        raise ConfigError(f"cannot read {option.place}: {option.key} = {option.value} is no mode such as 660")
    return int(option.value, 8)


def web(config: UwsgiConfig, around: Surroundings, base: Path) -> dict[str, Any]:
    """`[web]` without addresses."""
    result: dict[str, Any] = {
        "workers": max(config.number("processes", "workers", default=1), 1),
        "threads": max(config.number("threads", default=1), green_threads(config), 1),
        "static": static(config, base),
        "access_log": not config.flag("disable-logging"),
        "max_requests": config.number("max-requests"),
        "max_requests_jitter": config.number("max-requests-delta") if config.number("max-requests") else 0,
        "request_timeout": config.number("harakiri"),
    }
    if mode := socket_mode(config):
        result["socket_mode"] = f"{mode:03o}"
    if (owner := config.text("chown-socket")) and around.uid == 0:
        result["socket_owner"] = owner
    if megabytes := config.number("reload-on-rss", "evil-reload-on-rss"):
        result["max_memory"] = megabytes << 20
    if backlog := config.number("listen"):
        result["backlog"] = backlog
    return result


def green_threads(config: UwsgiConfig) -> int:
    """Threads instead of what gevent, or another loop, would do at a time."""
    return min(config.number("gevent", "async", "asyncio"), MOST_THREADS)


def uwsgi_server(config: UwsgiConfig, binds: list[str]) -> dict[str, Any]:
    """`[web.uwsgi]`: limits as uWSGI has them."""
    result: dict[str, Any] = {
        "buffer_size": min(max(config.number("buffer-size", default=BUFFER_SIZE), 1), LARGEST_PACKET),
        "socket_timeout": config.number("socket-timeout", default=SOCKET_TIMEOUT) or SOCKET_TIMEOUT,
    }
    if any(reaches_out(bind) for bind in binds):
        # uWSGI believes everybody who can connect.
        result["allow"] = ["*"]
    return result


def reaches_out(bind: str) -> bool:
    """Whether other hosts can reach this `uwsgi:` address."""
    address = parse_address(bind)
    return address.protocol == "uwsgi" and not address.local


def static(config: UwsgiConfig, base: Path) -> dict[str, str]:
    """`[web.static]`. The first folder of a prefix counts."""
    result: dict[str, str] = {}
    for option in config.all("static-map", "static-map2", *CHECK_STATIC):
        prefix, _, folder = option.value.partition("=")
        if option.key in CHECK_STATIC:
            prefix, folder = "/", option.value
        elif option.key == "static-map2":
            # The file's path repeats the prefix.
            folder = f"{folder}/{prefix.strip('/')}"
        if folder:
            result.setdefault("/" + prefix.strip("/"), str(base / folder))
    return result


def restart(config: UwsgiConfig) -> dict[str, Any]:
    """`[restart]`."""
    return {"boot_timeout": BOOT_TIMEOUT, "drain_timeout": float(drain(config))}


def drain(config: UwsgiConfig) -> int:
    """Seconds that old workers get to finish."""
    return config.number("worker-reload-mercy") or config.number("reload-mercy") or MERCY


def handlers(config: UwsgiConfig, mules: tuple[Mule, ...]) -> dict[str, Any]:
    """`[handlers]`: a pool for each farm, and one for the mules outside."""
    mercy = config.number("mule-reload-mercy", default=MERCY) or MERCY
    names: dict[str, list[str]] = {}
    for mule in mules:
        names.setdefault(mule.pool, []).append(mule.name)
    return {
        pool: {"target": MULE_TARGET, "handover": "cold", "stop_timeout": mercy, **named(own, pool)}
        for pool, own in names.items()
    }


def named(names: list[str], pool: str) -> dict[str, Any]:
    """Count and, unless they are those of the template in `app`, the names themselves."""
    prefix = names[0].rpartition(f".{pool}.")[0]
    usual = [f"{prefix}.{pool}.{index}" for index in range(1, len(names) + 1)]
    return {"count": len(names)} | ({} if prefix and names == usual else {"exact_names": names})


def services(config: UwsgiConfig) -> dict[str, Any]:
    """`[services]`: attached daemons. uWSGI gives the line to a shell, so it may have quotes and variables in it."""
    commands = config.texts("attach-daemon", "attach-control-daemon")
    return {
        f"daemon{number}": {"command": ["/bin/sh", "-c", f"exec {command}"]}
        for number, command in enumerate(commands, 1)
    }


def log(config: UwsgiConfig, cwd: Path, base: Path) -> dict[str, Any]:
    """`[log]`."""
    option = config.last(*LOG_FILES)
    loggers = [value.removeprefix("file:") for value in config.texts("logger") if value.startswith("file:")]
    size = {"max_size": config.number("log-maxsize")} if config.number("log-maxsize") else {}
    if option is not None:
        # The others are opened before chdir.
        return {"file": str((base if option.key == "logto2" else cwd) / option.value), "stdout": False, **size}
    return {"file": str(base / loggers[0]), "stdout": False, **size} if loggers else size
