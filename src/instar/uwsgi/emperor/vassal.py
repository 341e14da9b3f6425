"""One vassal: kept running while its file is there, restarted when the file is touched."""

from __future__ import annotations

import asyncio
import contextlib
import enum
import signal
from collections.abc import Callable, Sequence
from typing import Any

from instar.errors import InstarError
from instar.supervisor.changes import Changes
from instar.supervisor.tasks import Tasks
from instar.uwsgi.emperor import dance, hooks, supervised
from instar.uwsgi.emperor.backstage import Backstage
from instar.uwsgi.emperor.fdstore import Stored
from instar.uwsgi.emperor.link import Order
from instar.uwsgi.emperor.process import VassalProcess
from instar.uwsgi.emperor.surroundings import Surroundings
from instar.uwsgi.emperor.throttle import Throttle
from instar.uwsgi.emperor.vassal_file import Kind, VassalFile

#: A vassal that ran so long was healthy, even if nobody sent it a request (seconds).
HEALTHY_AFTER = 10.0
#: Between two starts of a healthy vassal that ends (seconds): an immediate end must not become a busy loop.
_PAUSE = 0.1
#: What a process without clients has for its end (seconds).
_BRIEFLY = 3.0
#: Between two questions to a vassal's supervisor that boots (seconds).
_ASK_EVERY = 0.5


class State(enum.StrEnum):
    """Where a vassal stands."""

    #: For its pool, or for the end of the pause after a failure.
    WAITING = "waiting"
    STARTING = "starting"
    #: It has spawned; a pool has nothing more to say.
    READY = "ready"
    #: Its workers accept.
    SERVING = "serving"
    RESTARTING = "restarting"
    STOPPING = "stopping"
    #: By command, until it is restarted or its file is touched.
    STOPPED = "stopped"


class Vassal:
    """Owner of its processes. `blocker` says what it has to wait for (empty: nothing); `renew` restarts it."""

    def __init__(
        self,
        file: VassalFile,
        around: Surroundings,
        *,
        blocker: Callable[[VassalFile], str],
        renew: Callable[[Vassal], object],
    ) -> None:
        self.file = file
        self.process: VassalProcess | None = None
        #: The restarter of a dance, while there is one.
        self.standin: VassalProcess | None = None
        #: A restart is under way.
        self.renewing = False
        self.restarts = 0
        self.first_run = self.last_run = 0.0
        #: Why it waits or doesn't run, for people.
        self.note = file.problem
        #: How it failed last, after "it".
        self.failure = "ended"
        self.throttle = Throttle(around.settings.throttle, around.settings.max_throttle)
        self._around = around
        self._blocker = blocker
        self._wanted = True
        self._renew = renew
        #: Its file was touched while it restarted.
        self._again = False
        self._task: asyncio.Task[Any] | None = None

    @property
    def name(self) -> str:
        """The name of its file."""
        return self.file.found.name

    @property
    def backstage(self) -> Backstage:
        """Where a dance keeps its things."""
        return Backstage(self._around.root, self.name)

    @property
    def tasks(self) -> Tasks:
        """Where what is done with it runs."""
        return self._around.tasks

    @property
    def log(self) -> Callable[[str], None]:
        """Writes a line of the Emperor."""
        return self._around.log

    @property
    def changes(self) -> Changes:
        """Of it and of all others."""
        return self._around.changes

    @property
    def stored(self) -> list[Stored]:
        """The descriptors that it has left with the Emperor."""
        return self._around.store.of(self.name)

    @property
    def wanted(self) -> bool:
        """Whether it is to run."""
        return self._wanted

    @property
    def running(self) -> bool:
        """Whether it has a process."""
        return self.process is not None and self.process.alive

    @property
    def ready(self) -> bool:
        """Whether those that need it may start."""
        return self.running and self.process is not None and self.process.ready and not self.process.stopping

    @property
    def state(self) -> State:
        """For people and for `instar status`."""
        process = self.process
        if process is None or not process.alive:
            return State.WAITING if self._wanted else State.STOPPED
        if process.stopping:
            return State.STOPPING
        if self.renewing:
            return State.RESTARTING
        if process.accepting:
            return State.SERVING
        return State.READY if process.ready else State.STARTING

    # --- life ---------------------------------------------------------------------------------------

    def begin(self) -> None:
        """Keep it running from now on."""
        self._wanted = True
        if self._task is None or self._task.done():
            self._task = self._around.tasks.spawn(self._keep_running(), f"vassal {self.name}")
        self._around.changes.notify()

    def adopt(self, process: VassalProcess | None, standin: VassalProcess | None) -> None:
        """Go on with what an earlier Emperor started."""
        for item in (process, standin):
            if item is not None:
                self._around.register(self.file, item, standin=item is standin)
                self.log(f"vassal {self.name} is taken over (pid {item.pid})")
        self.process, self.standin = process, standin
        self.begin()
        if standin is not None:
            self.watch_standin(self.backstage, self.file.remarks.get("probe") or "/")

    async def stop(self, *, graceful: bool | None = None, mercy: float | None = None) -> None:
        """End it and keep it from starting; returns when it is gone."""
        settings = self._around.settings
        graceful = settings.graceful_shutdown if graceful is None else graceful
        mercy = settings.curse_tolerance if mercy is None else mercy
        self._wanted = False
        self._around.changes.notify()
        order = Order.STOP_GRACEFULLY if graceful else Order.STOP
        processes = [item for item in (self.standin, self.process) if item is not None and item.alive]
        await asyncio.gather(*(self.end(item, order, mercy) for item in processes))
        self.standin = None
        if self._task is not None:
            await asyncio.wait([self._task])

    def kill(self) -> None:
        """SIGKILL for whatever there is of it."""
        for process in (self.standin, self.process):
            if process is not None:
                process.kill()

    def touched(self, file: VassalFile) -> None:
        """Its file changed: that restarts it, and ends whatever pause it is in."""
        self.file = file
        self.throttle.forget()
        if self.renewing:
            self._again = True
        elif self.running and self._wanted:
            self._renew(self)
        else:
            self.begin()

    def renewed(self) -> None:
        """A restart is over, whatever came of it."""
        self.renewing = False
        self.restarts += 1
        if self._again and self._wanted:
            self._again = False
            self._renew(self)

    def check_heartbeat(self) -> None:
        """SIGKILL for one that has stopped sending heartbeats, or closed its link and lives on."""
        process, settings = self.process, self._around.settings
        if process is None or not process.alive:
            return
        now = self._around.system.monotonic()
        if process.heartbeat and now - process.heartbeat > settings.heartbeat:
            self._around.log(f"vassal {self.name} sent no heartbeat for {settings.heartbeat:g} s and is killed")
            process.heartbeat = 0.0
            process.kill()
        elif process.cursed and not process.stopping and now - process.cursed > settings.curse_tolerance:
            self._around.log(f"vassal {self.name} has left its Emperor but lives on, and is killed")
            process.kill()

    # --- the restarter of a dance ---------------------------------------------------------------------

    def start_standin(self, argv: Sequence[str]) -> VassalProcess:
        """Start a process that serves beside the main one. Raises InstarError."""
        if not self._wanted:
            raise InstarError(f"cannot restart {self.name}: it was told to stop meanwhile")
        try:
            self.standin = self._around.spawn(self.file, argv, standin=True)
        except OSError as error:
            raise InstarError(f"cannot start {argv[0]}: {error.strerror}") from error
        self.log(f"restarter of vassal {self.name} started (pid {self.standin.pid})")
        return self.standin

    async def end_standin(self, *, now: bool = False) -> None:
        """End it, gracefully unless `now`; if there is one."""
        standin, settings = self.standin, self._around.settings
        if standin is not None and standin.alive:
            # A worker of uWSGI may miss the signal while it starts its threads: not worth half a minute.
            order, mercy = (Order.STOP, _BRIEFLY) if now else (Order.STOP_GRACEFULLY, settings.curse_tolerance)
            await self.end(standin, order, mercy)
            self.log(f"restarter of vassal {self.name} ended")
        self.standin = None

    def watch_standin(self, backstage: Backstage, target: str) -> None:
        """End it as soon as the main process answers."""
        self.tasks.spawn(dance.until_main_answers(self, backstage, target), f"standin {self.name}")

    # --- inside -------------------------------------------------------------------------------------

    async def end(self, process: VassalProcess, order: Order, mercy: float) -> int:
        """End one of its processes; SIGKILL after `mercy` seconds. Its status."""
        # SIGINT stops the real uWSGI whatever die-on-term says.
        fallback = signal.SIGINT if process.kind is Kind.UWSGI else signal.SIGTERM
        return await process.end(order, fallback, mercy)

    async def _keep_running(self) -> None:
        while self.running or await self._leave_to_start():
            await self._run_once()

    async def _leave_to_start(self) -> bool:
        """Wait until the pause after a failure is over and the pool is ready; False when it is to stop."""
        system, changes = self._around.system, self._around.changes
        while not self._free():
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(changes.until(self._free), self.throttle.remaining(system.monotonic()))
        if self._wanted and (blocked := self._blocker(self.file)):
            self.note = blocked
            self._around.log(f"vassal {self.name} waits: {blocked}")
            await changes.until(lambda: not self._wanted or not self._blocker(self.file))
        return self._wanted

    def _free(self) -> bool:
        return not self._wanted or not self.throttle.remaining(self._around.system.monotonic())

    async def _run_once(self) -> None:
        """From its start, or from where an earlier Emperor left it, to its end."""
        process = self.process if self.process is not None and self.process.alive else await self._start()
        if process is None:
            return
        self.process, self.note = process, ""
        if process.kind is not Kind.UWSGI:
            self.tasks.spawn(self._ask(process), f"ask {self.name}")
        began = self._around.system.monotonic()
        await process.wait()
        await hooks.run(self._around.settings.stop_hook, self.name, self._around.settings, self.log)
        # One that says that it stops because it can't start is not healthy.
        left = process.stopping and process.accepting
        healthy = process.loyal or left or self._around.system.monotonic() - began >= HEALTHY_AFTER
        if not self._wanted:
            self.log(f"vassal {self.name} {process.end_in_words}")
            return
        self.restarts += 1
        if healthy:
            self.throttle.forget()
            self.log(f"vassal {self.name} {process.end_in_words}; it starts again")
            await asyncio.sleep(_PAUSE)
        else:
            self._failed(process.end_in_words)

    def _for_a_dance(self) -> tuple[str, ...]:
        """What it needs on its command line. Without, it serves all the same, and the first restart says why not."""
        try:
            return dance.arguments(self.file, self.backstage) if dance.dances(self.file) else ()
        except InstarError as error:
            self.log(f"vassal {self.name} starts, but can't be restarted: {error}")
            return ()

    async def _ask(self, process: VassalProcess) -> None:
        """Its supervisor serves before it says so, or without ever saying so."""
        while process.alive and not process.ready:
            answer = await supervised.status(self.file, process)
            if answer is not None and answer.get("state") == "serving":
                process.notified({"READY": "1"})
            await asyncio.sleep(_ASK_EVERY)

    def _failed(self, why: str) -> None:
        self.failure = why
        if not self._around.settings.no_blacklist:
            self.throttle.failed(self._around.system.monotonic())
        pause = self.throttle.remaining(self._around.system.monotonic())
        self.note = f"it {why}; the next try is in {pause:.3g} s" if pause else f"it {why}"
        self._around.log(f"vassal {self.name} {why}; it starts again in {pause:.3g} s")

    async def _start(self) -> VassalProcess | None:
        """None: it can't be started; that counts as a failure."""
        settings = self._around.settings
        await hooks.run(settings.start_hook, self.name, settings, self.log)
        if not self._wanted:
            return None
        self.last_run = self._around.system.time()
        self.first_run = self.first_run or self.last_run
        try:
            process = self._around.spawn(self.file, (*self.file.argv, *self._for_a_dance()))
        except OSError as error:
            self._failed(f"cannot be started: {self.file.argv[0]}: {error.strerror}")
            return None
        self.log(f"vassal {self.name} started (pid {process.pid})")
        return process
