"""What to boot: a configuration with everything resolved. A generation keeps its plan for rollback and recovery."""

from __future__ import annotations

import dataclasses
import grp
import importlib.util
import os
import pwd
from collections.abc import Iterable
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

from instar.config import Config, environment, expand_command, resolve_python
from instar.config.address import Protocol
from instar.engines.base import EngineOptions
from instar.errors import ConfigError
from instar.handlers.messages import QueueSpec
from instar.runtime.spec import ExtensionSpec, GenerationSpec, HandlerSpec, ListenerSpec, StaticMap
from instar.system import Rights

#: Packages that the runtime uses and that the application's own environment may lack. All are pure Python.
_FALLBACKS = ("servestatic", "asgiref", "typing_extensions")
_WSGI_THREADS = 4
#: Ending of the names of compiled modules that fit our interpreter.
ABI = EXTENSION_SUFFIXES[0]
#: What the handlers of a pool without work of its own do.
JOB_MANAGER = "instar.jobs.manager:main"


@dataclasses.dataclass(frozen=True)
class Credentials(Rights):
    """Who the application's processes run as; None: like the supervisor."""

    @classmethod
    def of(cls, config: Config) -> Credentials:
        """The configured user and group. Raises ConfigError for unknown ones, or without the right to switch."""
        user, group = config.app.user, config.app.group
        umask = int(config.app.umask, 8) if config.app.umask else None
        like_us = cls(umask=umask, no_new_privs=config.app.no_new_privs)
        if not user and not group:
            return like_us
        entry = _user(user) if user else None
        gid = _group(group) if group else entry.pw_gid if entry else os.getgid()
        uid = entry.pw_uid if entry else os.getuid()
        if (uid, gid) == (os.getuid(), os.getgid()):
            return like_us
        if os.getuid() != 0:
            raise ConfigError(
                f"cannot run the application as {user or group}: only root can change the user; "
                "start instar as root, or leave user and group empty"
            )
        groups = tuple(os.getgrouplist(entry.pw_name, gid)) if entry else (gid,)
        return cls(uid, gid, groups, umask, config.app.no_new_privs)


def socket_owner(config: Config) -> tuple[int, int] | None:
    """uid and gid that UNIX sockets get (-1: as they are); None: nobody asked. Raises ConfigError for unknown ones."""
    user, _, group = config.web.socket_owner.partition(":")
    try:
        uid = (int(user) if user.isdigit() else pwd.getpwnam(user).pw_uid) if user else -1
        gid = (int(group) if group.isdigit() else grp.getgrnam(group).gr_gid) if group else -1
    except KeyError:
        name = config.web.socket_owner
        raise ConfigError(
            f"cannot give sockets to {name}: there is no such user or group; see [web] socket_owner"
        ) from None
    return None if (uid, gid) == (-1, -1) else (uid, gid)


def _user(name: str) -> pwd.struct_passwd:
    try:
        return pwd.getpwuid(int(name)) if name.isdigit() else pwd.getpwnam(name)
    except KeyError:
        raise ConfigError(f"cannot run the application as {name}: there is no such user") from None


def _group(name: str) -> int:
    try:
        return int(name) if name.isdigit() else grp.getgrnam(name).gr_gid
    except KeyError:
        raise ConfigError(f"cannot run the application in group {name}: there is no such group") from None


@dataclasses.dataclass(frozen=True)
class Parts:
    """What a generation is made of; a restart may renew only some of it."""

    web: bool = True
    handlers: bool = True
    #: Only these pools; empty: all.
    pools: frozenset[str] = frozenset()

    def listed(self) -> list[str]:
        """Their names."""
        return [name for name, wanted in (("web", self.web), ("handlers", self.handlers)) if wanted]

    def includes(self, pool: str) -> bool:
        """Whether the handlers of a pool belong to it."""
        return self.handlers and (not self.pools or pool in self.pools)


@dataclasses.dataclass(frozen=True)
class Plan:
    """One bootable release: the pinned configuration, the interpreter, the number of workers."""

    config: Config
    python: Path
    workers: int
    credentials: Credentials
    #: Whether `chdir` was reached through a symbolic link, so that a rollback finds the old code untouched.
    release_is_linked: bool = False

    @classmethod
    def of(cls, config: Config) -> Plan:
        """Resolve a configuration. Raises ConfigError."""
        pinned = config.pinned()
        if not pinned.app.chdir.is_dir():
            raise ConfigError(f"cannot boot from {pinned.app.chdir}: there is no such folder")
        linked = pinned.app.chdir != config.app.chdir
        return cls(pinned, resolve_python(pinned), worker_count(pinned), Credentials.of(pinned), linked)

    @property
    def release(self) -> str:
        """The pinned folder."""
        return str(self.config.app.chdir)

    @property
    def one_socket(self) -> frozenset[Protocol]:
        """The protocols whose sockets all workers share (`[web] sockets`)."""
        web = self.config.web
        if web.sockets != "auto":
            return frozenset(("http", "uwsgi")) if web.sockets == "generation" else frozenset()
        # A worker that accepts only when it has time leaves connections to the others, if they share a socket.
        # granian and gunicorn's threads accept although all are busy.
        waits = web.engine == "uvicorn" or (web.engine == "gunicorn" and web.worker_class == "sync")
        # Our server of the uwsgi protocol waits as well.
        return frozenset(("http", "uwsgi")) if waits else frozenset(("uwsgi",))

    def environment(self) -> dict[str, str]:
        """Environment of the application's processes. Raises ConfigError when env_file can't be read."""
        env = {name: value for name, value in os.environ.items() if not name.startswith(("LISTEN_", "NOTIFY_"))}
        return {**env, "PYTHONUNBUFFERED": "1", **environment(self.config)}

    def engine_options(self) -> EngineOptions:
        """Settings for the engine."""
        web = self.config.web
        threads = web.threads or (1 if self.config.app.interface == "asgi" else _WSGI_THREADS)
        return EngineOptions(
            threads=threads,
            keep_alive=web.keep_alive,
            backlog=web.backlog,
            tls_cert=str(web.tls_cert) if web.tls_cert else None,
            tls_key=str(web.tls_key) if web.tls_key else None,
            tls_key_password=os.environ.get(web.tls_key_password_env) if web.tls_key_password_env else None,
            http=web.http,
            root_path=web.root_path,
            worker_class=web.worker_class or None,
            command=tuple(expand_command(tuple(web.command), self.python)),
            uwsgi_buffer_size=web.uwsgi.buffer_size,
            uwsgi_timeout=web.uwsgi.socket_timeout,
            uwsgi_allow=tuple(map(str, web.uwsgi.allow)),
        )

    def handler_specs(self) -> tuple[HandlerSpec, ...]:
        """Every named handler of the configuration."""
        specs = []
        for pool_name, pool in self.config.handlers.items():
            argv: tuple[str, ...] = ()
            script = str(pool.script) if pool.script and pool.warm else ""
            if pool.script and not script:
                argv = (str(self.python), str(pool.script))
            elif pool.command:
                argv = tuple(expand_command(tuple(pool.command), self.python))
            for index, name in enumerate(self.config.handler_names(pool_name), 1):
                specs.append(
                    HandlerSpec(
                        name=name,
                        pool=pool_name,
                        index=index,
                        target=pool.target or ("" if argv or script else JOB_MANAGER),
                        argv=argv,
                        warm=pool.warm,
                        tags=tuple(pool.tags),
                        env=dict(pool.env),
                        stop_timeout=pool.stop_timeout,
                        kill_timeout=pool.kill_timeout,
                        keep_name=pool.keep_name,
                        backoff=pool.backoff,
                        backoff_limit=pool.backoff_limit,
                        memory_max=pool.memory_max,
                        cpu_max=pool.cpu_max,
                        script=script,
                    )
                )
        return tuple(specs)

    def spec(
        self,
        *,
        generation: int,
        slot: str,
        parts: Parts,
        listeners: tuple[ListenerSpec, ...],
        handler_dir: Path,
        queues: tuple[QueueSpec, ...],
        control_fd: int,
        scoreboard_fd: int,
        output_dir: Path,
        nonce: str,
        gated: bool,
    ) -> GenerationSpec:
        """The document for the zygote."""
        config = self.config
        app, web, more = config.app, config.web, config.extension
        return GenerationSpec(
            generation=generation,
            app_name=app.name,
            target=app.target if web.engine != "command" else "",
            factory=app.factory,
            interface=app.interface,
            chdir=str(app.chdir),
            pythonpath=tuple(map(str, app.pythonpath)),
            slot=slot,
            workers=self.workers if parts.web else 0,
            handlers=tuple(item for item in self.handler_specs() if parts.includes(item.pool)),
            handler_dir=str(handler_dir),
            queues=queues,
            engine=web.engine,
            options=self.engine_options(),
            listeners=listeners,
            control_fd=control_fd,
            scoreboard_fd=scoreboard_fd,
            output_dir=str(output_dir),
            nonce=nonce,
            lazy=None if app.lazy == "auto" else bool(app.lazy),
            static=tuple(StaticMap(prefix, str(root)) for prefix, root in web.static.items()),
            trusted_proxies=tuple(map(str, web.trusted_proxies)),
            request_timeout=web.request_timeout,
            heartbeat_timeout=web.heartbeat_timeout,
            max_requests=web.max_requests,
            max_requests_jitter=web.max_requests_jitter,
            max_memory=web.max_memory,
            drain_timeout=config.restart.drain_timeout,
            stream_grace=config.restart.stream_grace,
            access_log=web.access_log,
            log_format=config.log.format,
            gated=gated,
            probe_path=config.health.path if gated else "",
            fallbacks=fallback_packages(),
            compiled=compiled_packages(config),
            abi=ABI,
            supervisor_uid=os.getuid(),
            extension=ExtensionSpec(more.target, more.data) if more else None,
        )


def worker_count(config: Config) -> int:
    """Configured workers, or one for each CPU that we may use."""
    return config.web.workers or len(os.sched_getaffinity(0))


def socket_capacity(config: Config) -> int:
    """Sockets for each slot of an address; fixed when the address is opened."""
    return config.web.max_workers or max(worker_count(config), len(os.sched_getaffinity(0)))


def compiled_packages(config: Config) -> dict[str, str]:
    """The server for an application that was run by another one until now: its environment has none of ours."""
    return _folders(("granian",)) if config.extension and config.web.engine == "granian" else {}


def fallback_packages() -> dict[str, str]:
    """Folders of the packages that the runtime brings along where the application has none."""
    return _folders(_FALLBACKS)


def _folders(names: Iterable[str]) -> dict[str, str]:
    found = {}
    for name in names:
        spec = importlib.util.find_spec(name)
        if spec and spec.submodule_search_locations:
            found[name] = next(iter(spec.submodule_search_locations))
    return found
