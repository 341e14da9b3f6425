"""From uWSGI's option list to what instar runs."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Literal, cast

from instar.config import Config
from instar.config.formats.uwsgi import Surroundings, UwsgiConfig
from instar.config.formats.uwsgi.values import is_true
from instar.config.loading import checked
from instar.config.types import NAME_PATTERN
from instar.errors import ConfigError
from instar.uwsgi import settings
from instar.uwsgi.hooklines import hooks_of, touches_of
from instar.uwsgi.loading import application_of, target_of
from instar.uwsgi.model import Application, Instance, Mule
from instar.uwsgi.mules import mules_and_farms
from instar.uwsgi.othersections import other_section
from instar.uwsgi.sockets import Sockets, protocol_of, sockets_of

#: Section, or key of the command line's `--set`, that names the handlers' prefix.
SERVER_NAME = "main"
_SERVER_NAMES = ("server-name", "server_name")
_EMPEROR = ("emperor", "zeus")


def translate(config: UwsgiConfig, *, name: str = "", surroundings: Surroundings | None = None) -> Instance:
    """The instance that the options describe.

    `name` is that of the state directory; without it the stem of the file's name. Raises ConfigError.
    """
    around = surroundings or Surroundings()
    base = around.cwd / config.text("chdir")
    server_name = _server_name(config, around)
    mules, farms = mules_and_farms(config, server_name=server_name, base=base)
    sockets = sockets_of(config, base)
    application = application_of(config)
    zerg = tuple(base / path for path in config.texts("zerg"))
    own = None
    if application is not None:
        own = _configuration(config, around, application, sockets, mules, name or name_of(config), server_name, zerg)
    return Instance(
        options=config.options,
        source=config.source,
        config=own,
        application=application,
        emperor=config.texts(*_EMPEROR),
        server_name=server_name,
        fifos=tuple(base / path for path in config.texts("master-fifo")),
        hooks=hooks_of(config),
        zerg=zerg,
        zerg_fallback=config.flag("zerg-fallback"),
        pools=tuple(sockets.pools),
        zerg_server=base / config.text("zerg-server") if config.has("zerg-server") else None,
        routers=tuple(sockets.routers),
        mules=mules,
        farms=farms,
        touches=touches_of(config, base),
        die_on_term=config.flag("die-on-term", "exit-on-reload"),
        mercy=float(config.number("reload-mercy", default=settings.MERCY) or settings.MERCY),
        socket_mode=_mode(config),
        backlog=config.number("listen", default=100),
        protocol=cast(Literal["uwsgi", "http"], protocol_of(config)),
        pidfiles=_pidfiles(config, around.cwd, base),
        warnings=tuple(sockets.warnings),
    )


def name_of(config: UwsgiConfig) -> str:
    """Name of the state directory: the file's without its ending, with a `-` for what a name can't have."""
    stem = config.source.stem if config.source else "uwsgi"
    name = re.sub(r"[^A-Za-z0-9_.-]", "-", stem).lstrip("-._")[:64]
    return name if re.fullmatch(NAME_PATTERN, name) else "uwsgi"


def _server_name(config: UwsgiConfig, around: Surroundings) -> str:
    name = config.text(*_SERVER_NAMES) or other_section(config, "galaxy", around).get("server_name", "") or SERVER_NAME
    if not re.fullmatch(NAME_PATTERN, name):
        raise ConfigError(f'cannot name handlers after the server name "{name}": use letters, digits, "-", "_" and "."')
    return name


def _configuration(
    config: UwsgiConfig,
    around: Surroundings,
    application: Application,
    sockets: Sockets,
    mules: tuple[Mule, ...],
    name: str,
    server_name: str,
    zerg: tuple[Path, ...],
) -> Config:
    base = around.cwd / config.text("chdir")
    target, factory = target_of(application)
    raw: dict[str, Any] = {
        "app": {
            **settings.app(config, around, application, base),
            "name": name,
            "target": target,
            "factory": factory,
            "handler_name": f"{server_name}.{{pool}}.{{index}}",
        },
        "web": settings.web(config, base),
        "restart": settings.restart(config),
        # An application that answers at all is ready, as it is for uWSGI; a server error is not an answer.
        "health": {"path": "/", "status": "200-499"},
        "handlers": settings.handlers(config, mules),
        "log": settings.log(config, around.cwd, base),
    }
    raw["web"]["uwsgi"] = settings.uwsgi_server(config, sockets.binds)
    if sockets.binds:
        raw["web"]["bind"] = sockets.binds
    if sockets.tls_cert:
        raw["web"] |= {"tls_cert": str(sockets.tls_cert), "tls_key": str(sockets.tls_key)}
    label = str(config.source) if config.source else "the command line"
    result = checked(raw, base=base, name=label)
    if not sockets.binds:
        if not zerg:
            raise ConfigError(
                f"cannot start {label}: it has neither socket, http nor zerg, so no client could reach it"
            )
        result = result.model_copy(update={"web": result.web.model_copy(update={"bind": ()})})
    return result


def _mode(config: UwsgiConfig) -> int | None:
    option = config.last("chmod-socket", "chmod")
    if option is None:
        return None
    if not re.fullmatch(r"[0-7]{3,4}", option.value):
        if is_true(option.value) and not option.value.isdigit():
            return 0o666
        raise ConfigError(f"cannot read {option.place}: {option.key} = {option.value} is no mode such as 660")
    return int(option.value, 8)


def _pidfiles(config: UwsgiConfig, cwd: Path, base: Path) -> tuple[Path, ...]:
    files = []
    for key in ("pidfile", "safe-pidfile", "pidfile2", "safe-pidfile2"):
        if text := config.text(key):
            # The second ones are written after chdir.
            files.append((base if key == "pidfile2" else cwd) / text)
    return tuple(files)
