"""An instance with an application: a supervisor, and around it all that uWSGI's master does."""

from __future__ import annotations

import asyncio
import dataclasses
import functools
import socket
from collections.abc import Sequence

from instar.config import Config, parse_address
from instar.control.assembly import announce, assembled
from instar.errors import ConfigError, InstarError
from instar.listeners.systemd import is_bound_to
from instar.runtime.scoreboard import Column
from instar.supervisor.generation import Generation
from instar.supervisor.hooks import HookError
from instar.supervisor.leftovers import retire_all
from instar.supervisor.seams import Seams
from instar.supervisor.supervisor import Supervisor
from instar.supervisor.tasks import Tasks
from instar.uwsgi import dance, interpreter
from instar.uwsgi.around import Around
from instar.uwsgi.attach import Attached, Zergling
from instar.uwsgi.comeback import Comeback
from instar.uwsgi.controls import Controls
from instar.uwsgi.emperor.link import News
from instar.uwsgi.master import SupervisedHost
from instar.uwsgi.model import Instance, ZergPool
from instar.uwsgi.pool import Pool
from instar.uwsgi.zerg import ZergError

#: Seconds between two looks for the first request, which makes a vassal loyal.
_LOYAL_EVERY = 0.5
_UWSGI = "uwsgi"


class ApplicationInstance:
    """Owner of the parts. `serve` is its life."""

    def __init__(self, around: Around, config: Config) -> None:
        self._around = around
        self._config = config
        self._zergling: Zergling | None = None
        self._attached: tuple[Attached, ...] = ()
        self._controls: Controls | None = None
        self._comeback: Comeback | None = None
        self._pool: Pool | None = None
        self._folder = dance.folder_of(around.instance)
        #: Hooks that run once have run.
        self._accepted = False
        #: It has served: a hook that fails from now on is rolled back.
        self._settled = False
        #: Why the instance ends by itself.
        self._failure = ""
        self._supervisor: Supervisor | None = None

    async def serve(self) -> int:
        """Run until told to stop; returns the exit code. Raises InstarError."""
        around, instance = self._around, self._around.instance
        try:
            await around.begin()
            handler_dir = dance.create(self._folder, around.user) if self._folder else None
            await self._get_sockets(instance)
            seams = Seams(
                booting=self._booting,
                accepting=self._accepting,
                handler_dir=handler_dir if instance.zerg else None,
                notes=self._notes,
            )
            async with assembled(
                self._configured(instance),
                self._reload,
                sockets=self._sockets(),
                pooled=bool(self._attached),
                side_by_side=bool(instance.zerg),
                seams=seams,
                system=around.system,
            ) as supervisor:
                self._supervisor = supervisor
                code = await self._supervise(supervisor)
        except HookError as error:
            raise InstarError(str(error)) from error
        finally:
            await self._let_go()
        return code

    # --- sockets ------------------------------------------------------------------------------------

    async def _get_sockets(self, instance: Instance) -> None:
        """Those of our own pools, and those of the pools that we attach to. Raises InstarError."""
        around = self._around
        if instance.zerg_server:
            instance = dataclasses.replace(instance, pools=(*instance.pools, _own_pool(instance, self._config)))
        if instance.pools or instance.routers:
            self._pool = Pool(
                instance, lambda text: around.log(text), notifier=around.notifier, inherited=around.inherited
            )
            await self._pool.start()
            self._attached = self._pool.sockets
        if instance.zerg:
            self._zergling = Zergling(
                instance.zerg,
                name=self._config.app.name,
                log=lambda text: around.log(text),
                protocol=instance.protocol,
                http=await self._serves_http(),
            )
            try:
                self._attached += await self._zergling.attach()
            except ZergError as error:
                if not (instance.zerg_fallback and self._config.web.bind):
                    raise
                around.log(f"{error}; it serves its own sockets instead")

    async def _serves_http(self) -> bool:
        """Whether the application's environment has, or can borrow, the server. Raises ConfigError."""
        found = await asyncio.to_thread(interpreter.look_at, self._config)
        if not found.has_engine:
            engine = self._config.web.engine
            self._around.log(
                f"the application's environment has no {engine}, so HTTP is left to the router of the pool; "
                f"`pip install {engine}` there lets the workers answer it themselves"
            )
        return found.has_engine

    def _sockets(self) -> list[socket.socket]:
        own = [
            item.socket
            for item in self._around.inherited
            if any(is_bound_to(item.socket, bind) for bind in self._config.web.bind)
        ]
        return [item.socket for item in self._attached] + own

    def _configured(self, instance: Instance) -> Config:
        """The instance's configuration, with the sockets of its pools."""
        assert instance.config is not None  # noqa: S101 - checked by whoever chose this class
        config = instance.config
        if not self._attached:
            return config
        return _with_binds(config, [item.bind for item in self._attached])

    def _reload(self) -> Config:
        instance = self._around.reread()
        if instance.config is None:
            raise InstarError("cannot reload: the configuration names no application any more")
        return self._configured(instance)

    async def _let_go(self) -> None:
        if self._zergling:
            await self._zergling.close()
        if self._pool:
            await self._pool.stop()
        await self._around.end()

    # --- the supervisor -----------------------------------------------------------------------------

    async def _supervise(self, supervisor: Supervisor) -> int:
        around, instance = self._around, self._around.instance
        around.log = supervisor.log.write
        around.world.output = supervisor.state.output / "services" / "hooks.out"
        host = SupervisedHost(supervisor)
        self._controls = controls = Controls(around, host)
        self._comeback = Comeback(supervisor, self._leave_clients)
        if instance.zerg:
            controls.master.instead_of_end = self._come_back
        supervisor.full_drain = instance.mercy
        supervisor.on_stop = self._leaving
        supervisor.signals = controls.signals()
        tasks = Tasks(supervisor.log.write)
        tasks.spawn(self._become_loyal(supervisor), "loyal")
        try:
            controls.open()
            async with around.herald.following(supervisor):
                code = await supervisor.serve(functools.partial(self._announce, supervisor))
        finally:
            await tasks.cancel()
            await host.close()
            await controls.close()
            # The supervisor's log ends with it; what the last hooks say goes where that of the first ones went.
            around.speak_up()
        if self._failure:
            raise InstarError(f"cannot go on: {self._failure}")
        return code

    def _announce(self, supervisor: Supervisor, generation: Generation) -> None:
        announce(supervisor, generation)
        self._around.herald.serving(generation.number)
        if supervisor.adopted:
            # Its hooks have run, but a new Emperor's connection has not heard of it.
            self._accepted = self._settled = True
            self._around.link.say(News.ACCEPTING)

    def _leaving(self) -> None:
        self._leave_clients()
        self._around.leaving()

    def _leave_clients(self) -> None:
        # The pool's router has to be on before we stop accepting.
        if self._zergling:
            self._zergling.say("leaving")

    def _come_back(self) -> bool:
        if not (self._around.link.connected and self._comeback):
            return False
        # The Emperor's start takes up what a generation can't.
        return not self._around.needs_start() and self._comeback.begin()

    async def _become_loyal(self, supervisor: Supervisor) -> None:
        while not (supervisor.registry.live and supervisor.registry.live.sum(Column.REQUESTS)):
            await asyncio.sleep(_LOYAL_EVERY)
        self._around.link.say(News.LOYAL)

    # --- moments of a handover ----------------------------------------------------------------------

    async def _booting(self, config: Config, generation: int) -> None:
        handover = self._supervisor.operations.handover if self._supervisor else None
        if handover and (note := self._around.note()):
            handover.report.skip("start", note)
        await self._around.run("pre-app")

    async def _accepting(self, config: Config, generation: int) -> None:
        around = self._around
        async with dance.turn(self._folder, around.instance.mercy, around.log):
            if self._zergling:
                self._zergling.say("serving")
            around.link.say(News.ACCEPTING)
            if self._comeback and self._comeback.anew and self._controls:
                # As the process that the Emperor would have started. Not earlier: until then the first FIFO is the
                # other zergling's, for which its own hook may be looking.
                self._accepted = self._comeback.anew = False
                self._controls.fifo.command("0")
            first, self._accepted = not self._accepted, True
            try:
                if first:
                    await around.run("master-start", "post-app", "post-fork", "accepting", "accepting-once")
                    await around.run("accepting1", "accepting1-once")
                else:
                    await around.run("post-app", "post-fork", "accepting", "accepting1")
                self._settled = True
                self._retire_orphans()
            except HookError as error:
                if not self._settled and self._supervisor:
                    # uWSGI destroys the instance: whoever was to be told has not been, and both would go on.
                    self._failure = str(error)
                    self._supervisor.stop(now=False)
                raise

    def _retire_orphans(self) -> None:
        """A zergling whose supervisor was killed has served on; it has no FIFO any more that could tell it to quit."""
        supervisor = self._supervisor
        if supervisor:
            orphans, supervisor.orphans = supervisor.orphans, []
            for orphan in orphans:
                number = orphan.hello.generation if orphan.hello else "?"
                supervisor.log.write(f"generation {number} of a supervisor that died is sent away")
            supervisor.tasks.spawn(retire_all(orphans, self._around.instance.mercy), "retire orphans")

    def _notes(self) -> list[str]:
        notes = [note] if (note := self._around.note()) else []
        if self._zergling:
            notes += [f"sockets of the zerg pool {path}" for path in self._zergling.pools]
        fifo = self._controls and self._controls.fifo
        if fifo and fifo.stolen:
            notes.append(f"another process has taken the master FIFO {fifo.path}")
        return notes


def _own_pool(instance: Instance, config: Config) -> ZergPool:
    """`zerg-server`: a pool of the instance's own sockets. Raises ConfigError."""
    assert instance.zerg_server is not None  # noqa: S101 - asked for by the caller
    own = [address.location for address in config.web.addresses if address.protocol == instance.protocol]
    if not own:
        raise ConfigError(f"cannot hand out sockets at {instance.zerg_server}: the instance has no socket of its own")
    return ZergPool(instance.zerg_server, tuple(own))


def _with_binds(config: Config, pooled: Sequence[str]) -> Config:
    """The configuration on the sockets of pools, besides its own."""
    binds = tuple(dict.fromkeys((*pooled, *config.web.bind)))
    config = config.bound(binds)
    if any(_reaches_out(bind) for bind in pooled) and not config.web.uwsgi.allow:
        # uWSGI believes everybody who can connect.
        server = config.web.uwsgi.model_copy(update={"allow": ("*",)})
        config = config.model_copy(update={"web": config.web.model_copy(update={"uwsgi": server})})
    return config


def _reaches_out(bind: str) -> bool:
    address = parse_address(bind)
    return address.protocol == _UWSGI and not address.local
