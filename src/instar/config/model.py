"""The whole configuration: one field for each table of `instar.toml`."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator, PrivateAttr, model_validator

from instar.config.app import App
from instar.config.extension import Extension
from instar.config.handlers import HandlerPool
from instar.config.health import Health
from instar.config.here import current_folder
from instar.config.jobs import Jobs
from instar.config.log import Log
from instar.config.restart import Restart
from instar.config.service import Service
from instar.config.state import durable_dir, state_dir
from instar.config.table import Table, setting
from instar.config.types import NAME_PATTERN
from instar.config.web import Web


def _service_names(value: object) -> object:
    if not isinstance(value, dict):
        raise ValueError("must be tables, as in [services.mailer]")
    for name in value:
        if not re.fullmatch(NAME_PATTERN, str(name)):
            raise ValueError(f'has a service with the name "{name}"; use letters, digits, "-", "_" and "."')
    return value


def _pool_names(value: object) -> object:
    if not isinstance(value, dict):
        raise ValueError("must be tables, as in [handlers.mail]")
    for name in value:
        if not re.fullmatch(NAME_PATTERN, str(name)):
            raise ValueError(f'has a pool with the name "{name}"; use letters, digits, "-", "_" and "."')
    return value


class Config(Table):
    """A checked configuration. Every path in it is absolute; times are seconds, sizes are bytes."""

    app: App = setting(App(), "The application.", unit="table")
    web: Web = setting(Web(), "Listeners and workers.", unit="table")
    health: Health = setting(Health(), "The readiness probe.", unit="table")
    restart: Restart = setting(Restart(), "Restarts and rollbacks.", unit="table")
    handlers: Annotated[dict[str, HandlerPool], BeforeValidator(_pool_names)] = setting(
        {}, "Pools of named background handlers.", unit="tables"
    )
    jobs: Jobs = setting(Jobs(), "Durable jobs.", unit="table")
    services: Annotated[dict[str, Service], BeforeValidator(_service_names)] = setting(
        {}, "Other supervised commands, by name.", unit="tables"
    )
    log: Log = setting(Log(), "Logging.", unit="table")

    _source: Path | None = PrivateAttr(default=None)
    _state_dir: Path | None = PrivateAttr(default=None)
    _notes: tuple[str, ...] = PrivateAttr(default=())
    _extension: Extension | None = PrivateAttr(default=None)

    @model_validator(mode="before")
    @classmethod
    def _every_table(cls, raw: Any) -> Any:
        # A table that is not written is validated as well, so that the default paths in it start from the right folder.
        if isinstance(raw, dict):
            return {name: {} for name in cls.model_fields} | raw
        return raw

    @property
    def source(self) -> Path | None:
        """The file that it was read from (absolute); None when there was none."""
        return self._source

    @property
    def base(self) -> Path:
        """The folder that relative paths started from."""
        return self._source.parent if self._source else current_folder()

    def state_dir(self) -> Path:
        """The state directory of this application (see `instar.config.state`)."""
        return self._state_dir or state_dir(self.app.name)

    def durable_dir(self) -> Path:
        """Where its jobs are (see `instar.config.state`)."""
        return self._state_dir / "app" if self._state_dir else durable_dir(self.app.name)

    @property
    def extension(self) -> Extension | None:
        """What takes part in the application's processes besides itself; only translated configurations have one."""
        return self._extension

    def extended(self, extension: Extension) -> Config:
        """The same with an extension."""
        copy = self.model_copy()
        copy._extension = extension
        return copy

    def bound(self, binds: tuple[str, ...]) -> Config:
        """The same on other addresses."""
        return self.model_copy(update={"web": self.web.model_copy(update={"bind": binds})})

    def handler_names(self, pool: str) -> list[str]:
        """The names of a pool's handlers, in the order of their indexes. Raises KeyError."""
        app = self.app
        return list(self.handlers[pool].names(server_name=app.name, pool=pool, template=app.handler_name))

    def queue_names(self) -> list[str]:
        """Everything that messages can be sent to: pools and handlers, and what an extension adds, each once."""
        names = [name for pool in self.handlers for name in (pool, *self.handler_names(pool))]
        return list(dict.fromkeys((*names, *(self.extension.queues if self.extension else ()))))

    def warnings(self) -> tuple[str, ...]:
        """What is allowed and yet probably not meant, one sentence each."""
        from instar.config.checks import warnings

        return (*self._notes, *warnings(self))

    def pinned(self) -> Config:
        """The same with `chdir` resolved, and every path below it moved along.

        A generation keeps these paths: when a deployment swaps the symbolic link, its workers are still
        respawned, and rolled back to, from the release that it was booted from.
        """
        link, release = self.app.chdir, self.app.chdir.resolve()

        def move(path: Path) -> Path:
            return release / path.relative_to(link) if path.is_relative_to(link) else path

        app = {
            "chdir": release,
            "pythonpath": tuple(map(move, self.app.pythonpath)),
            "python": self.app.python and move(self.app.python),
            "env_file": self.app.env_file and move(self.app.env_file),
        }
        services = {
            name: service.model_copy(update={"chdir": service.chdir and move(service.chdir)})
            for name, service in self.services.items()
        }
        handlers = {
            name: pool.model_copy(update={"script": pool.script and move(pool.script)})
            for name, pool in self.handlers.items()
        }
        static = {prefix: move(folder) for prefix, folder in self.web.static.items()}
        return self.model_copy(
            update={
                "app": self.app.model_copy(update=app),
                "web": self.web.model_copy(update={"static": static}),
                "handlers": handlers,
                "services": services,
            }
        )
