"""From uWSGI's option list to what instar runs."""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, cast

from instar.config import Config
from instar.config.formats.uwsgi import Surroundings, UwsgiConfig
from instar.config.loading import checked, put
from instar.config.types import NAME_PATTERN
from instar.errors import ConfigError
from instar.uwsgi import remarks, settings
from instar.uwsgi.extension import extension_of
from instar.uwsgi.hooklines import hooks_of, touches_of
from instar.uwsgi.loading import application_of, target_of
from instar.uwsgi.model import Application, Farm, Instance, Mule
from instar.uwsgi.mules import mules_and_farms
from instar.uwsgi.othersections import native_settings, other_section
from instar.uwsgi.sockets import Sockets, protocol_of, sockets_of

#: What handlers' names begin with, as in Galaxy.
SERVER_NAME = "main"
_SERVER_NAMES = ("server-name", "server_name")
EMPEROR = ("emperor",)


def translate(config: UwsgiConfig, *, name: str = "", surroundings: Surroundings | None = None) -> Instance:
    """The instance that the options describe.

    `name` is that of the state directory; without it the stem of the file's name. Raises ConfigError with one sentence
    a line.
    """
    return Translation(config, surroundings or Surroundings(), name).instance()


def name_of(config: UwsgiConfig) -> str:
    """Name of the state directory of an instance."""
    return settings.name_of(config.source)


@dataclasses.dataclass(frozen=True)
class Translation:
    """One option list and all that follows from it."""

    config: UwsgiConfig
    surroundings: Surroundings
    name: str = ""

    @property
    def label(self) -> str:
        """What messages call it."""
        source, cwd = self.config.source, self.surroundings.cwd
        if source is None:
            return "the command line"
        return str(source.relative_to(cwd) if source.is_relative_to(cwd) else source)

    @functools.cached_property
    def base(self) -> Path:
        """The application's folder: all but pidfiles and logs is relative to it."""
        return self.surroundings.cwd / self.config.text("chdir")

    @functools.cached_property
    def native(self) -> dict[str, Any]:
        """Settings of instar that stand beside uWSGI's own."""
        return native_settings(self.config, self.surroundings)

    @functools.cached_property
    def ignored(self) -> frozenset[str]:
        """Options that are to be left out without a word."""
        words = self.native.get(remarks.IGNORE, "")
        return frozenset(str(word) for word in (words if isinstance(words, list) else re.split(r"[ ,]+", str(words))))

    @functools.cached_property
    def server_name(self) -> str:
        """What handlers' names begin with."""
        section = other_section(self.config, "galaxy", self.surroundings)
        name = self.config.text(*_SERVER_NAMES) or section.get("server_name", "") or SERVER_NAME
        if not re.fullmatch(NAME_PATTERN, name):
            raise ConfigError(
                f'cannot name handlers after the server name "{name}": use letters, digits, "-", "_" and "."'
            )
        return name

    @functools.cached_property
    def sockets(self) -> Sockets:
        """Addresses."""
        return sockets_of(self.config, self.base)

    @functools.cached_property
    def application(self) -> Application | None:
        """The application."""
        return application_of(self.config)

    @functools.cached_property
    def background(self) -> tuple[tuple[Mule, ...], tuple[Farm, ...]]:
        """Mules and farms."""
        return mules_and_farms(self.config, server_name=self.server_name, base=self.base)

    @property
    def zerg(self) -> tuple[Path, ...]:
        """Pools that the sockets come from."""
        return tuple(self.base / path for path in self.config.texts("zerg"))

    def instance(self) -> Instance:
        """All of it."""
        config, base = self.config, self.base
        if problems := self._problems():
            raise ConfigError("\n".join(problems))
        mules, farms = self.background
        instance = Instance(
            options=config.options,
            source=config.source,
            config=self.configuration(),
            application=self.application,
            emperor=config.texts(*EMPEROR),
            server_name=self.server_name,
            fifos=tuple(base / path for path in config.texts("master-fifo")),
            hooks=hooks_of(config),
            zerg=self.zerg,
            zerg_fallback=config.flag("zerg-fallback"),
            pools=tuple(self.sockets.pools),
            zerg_server=base / config.text("zerg-server") if config.text("zerg-server") else None,
            routers=tuple(self.sockets.routers),
            mules=mules,
            farms=farms,
            touches=touches_of(config, base),
            die_on_term=config.flag("die-on-term", "exit-on-reload"),
            mercy=float(config.number("reload-mercy", default=settings.MERCY) or settings.MERCY),
            socket_mode=settings.socket_mode(config),
            backlog=config.number("listen", default=settings.BACKLOG) or settings.BACKLOG,
            protocol=cast(Literal["uwsgi", "http"], protocol_of(config)),
            pidfiles=_pidfiles(config, self.surroundings.cwd, base),
            warnings=(*self.sockets.warnings, *remarks.warnings(config, self.ignored)),
        )
        if instance.config is None:
            return instance
        return dataclasses.replace(instance, config=instance.config.extended(extension_of(instance)))

    def _problems(self) -> list[str]:
        """All at once, so that a site doesn't meet them one by one."""
        found = remarks.refusals(self.config, self.ignored)
        for part in (lambda: self.sockets, lambda: self.background, lambda: self.server_name):
            try:
                part()
            except ConfigError as error:
                found.append(str(error))
        return list(dict.fromkeys(found))

    def configuration(self) -> Config | None:
        """What the supervisor runs; None without an application. Raises ConfigError."""
        if self.application is None:
            has = "mules" if self.background[0] else "a socket" if self.sockets.binds or self.zerg else ""
            if has and not self.sockets.pools:
                raise ConfigError(f"cannot start {self.label}: it has {has} but no application; name one with module")
            return None
        result = checked(self.table(self.application), base=self.base, name=self.label)
        if not self.sockets.binds and "web.bind" not in self.native:
            if not self.zerg:
                raise ConfigError(
                    f"cannot start {self.label}: it has neither socket, http nor zerg, so no client could reach it"
                )
            result = result.model_copy(update={"web": result.web.model_copy(update={"bind": ()})})
        return result

    def table(self, application: Application) -> dict[str, Any]:
        """The same in the layout of `instar.toml`."""
        config, around, base = self.config, self.surroundings, self.base
        target, factory = target_of(application)
        raw: dict[str, Any] = {
            "app": {
                **settings.app(config, around, application, base),
                "name": self.name or name_of(config),
                "target": target,
                "factory": factory,
                "handler_name": f"{self.server_name}.{{pool}}.{{index}}",
            },
            "web": settings.web(config, around, base),
            "restart": settings.restart(config),
            # An application that answers at all is ready, as it is for uWSGI; a server error is not an answer.
            "health": {"path": "/", "status": "200-499"},
            "handlers": settings.handlers(config, self.background[0]),
            "services": settings.services(config),
            "log": settings.log(config, around.cwd, base),
        }
        raw["web"]["uwsgi"] = settings.uwsgi_server(config, self.sockets.binds)
        if self.sockets.binds:
            raw["web"]["bind"] = self.sockets.binds
        if self.sockets.tls_cert:
            raw["web"] |= {"tls_cert": str(self.sockets.tls_cert), "tls_key": str(self.sockets.tls_key)}
        for key, value in self.native.items():
            if key != remarks.IGNORE:
                for path, item in _paths(key.split("."), value):
                    put(raw, path, item)
        return raw


def _paths(path: list[str], value: object) -> Iterator[tuple[list[str], object]]:
    """Tables are added to what is there, all else replaces it."""
    if isinstance(value, dict):
        for name, item in value.items():
            yield [*path, str(name)], item
    else:
        yield path, value


def _pidfiles(config: UwsgiConfig, cwd: Path, base: Path) -> tuple[Path, ...]:
    # The second ones are written after chdir.
    folders = {"pidfile": cwd, "safe-pidfile": cwd, "pidfile2": base, "safe-pidfile2": base}
    return tuple(folder / config.text(key) for key, folder in folders.items() if config.text(key))
