"""A world of handlers without processes: kernel, zygotes and clock are simulated, the decisions are the real ones.

Real are `Names`, `Generation` and `Handover` on the supervisor's side and `Roster` on the zygote's. Between them, and
between a zygote and its processes, everything that happens waits in a queue until the test lets it happen, so that a
fault can come in between any two steps.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import os as real_os
import signal
from collections import deque
from collections.abc import Callable, Coroutine
from types import SimpleNamespace
from typing import Any

from instar.errors import InstarError
from instar.runtime import channel, roster
from instar.runtime.nursery import Child
from instar.runtime.parent import Phase
from instar.runtime.spec import HandlerSpec
from instar.supervisor import generation as generation_module
from instar.supervisor import views
from instar.supervisor.generation import Generation
from instar.supervisor.handover import Handover, Options
from instar.supervisor.names import Names
from instar.supervisor.plan import Parts
from instar.supervisor.report import Report
from instar.supervisor.transitions import Event, GenerationState

#: Far from real descriptors: a mistake can't close one.
_FIRST_FD = 1_000_000


@dataclasses.dataclass(eq=False)
class Pipe:
    """A pipe, of which only matters whether its reading end is readable."""

    data: int = 0
    writers: int = 1

    @property
    def readable(self) -> bool:
        return self.data > 0 or self.writers == 0


@dataclasses.dataclass(eq=False)
class Process:
    """A handler process. `state`: booting, waiting (for its arming), locking (queued for the lock), active, gone."""

    pid: int
    spec: HandlerSpec
    zygote: SimulatedZygote
    arm: Pipe
    release: Pipe
    #: What its code does wrong: "", "boot" or "take".
    trouble: str
    state: str = "booting"
    stopped: bool = False
    deaf: bool = False
    pending: list[int] = dataclasses.field(default_factory=list)
    status: int | None = None

    @property
    def alive(self) -> bool:
        return self.state != "gone"


class FakeOs:
    """Stands for the module `os` where descriptors are simulated."""

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel

    def __getattr__(self, name: str) -> Any:
        return getattr(real_os, name)

    def pipe2(self, _flags: int) -> tuple[int, int]:
        pipe = Pipe()
        return self._kernel.new_fd((pipe, "r")), self._kernel.new_fd((pipe, "w"))

    def close(self, fd: int) -> None:
        self._kernel.close(fd)

    def write(self, fd: int, data: bytes) -> int:
        pipe, _ = self._kernel.fds[fd]
        pipe.data += len(data)
        return len(data)


class Kernel:
    """Descriptors, processes, the locks on the names, and the clock. Also the `System` of everybody."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.fds: dict[int, Any] = {}
        self.processes: dict[int, Process] = {}
        self.zygotes: dict[int, SimulatedZygote] = {}
        #: By name: who waits for the lock, in order; and who has it.
        self.queues: dict[str, list[Process]] = {}
        self.epochs: dict[str, int] = {}
        self.in_child = False
        self.watched: dict[int, tuple[Callable[..., None], tuple[Any, ...]]] = {}
        self._next_fd, self._next_pid = _FIRST_FD, 100

    # --- descriptors ---

    def new_fd(self, what: Any) -> int:
        self._next_fd += 1
        self.fds[self._next_fd] = what
        return self._next_fd

    def dup(self, fd: int) -> int:
        what = self.fds[fd]
        if isinstance(what, tuple) and what[1] == "w":
            what[0].writers += 1
        return self.new_fd(what)

    def close(self, fd: int) -> None:
        if self.in_child:
            return
        what = self.fds.pop(fd)
        if isinstance(what, tuple) and what[1] == "w":
            what[0].writers -= 1

    # --- System ---

    def monotonic(self) -> float:
        return self.now

    def time(self) -> float:
        return self.now

    def finish(self, _process: Any) -> int:
        return -9

    def reap(self, _pid: int) -> int:
        return 0

    def kill(self, pid: int, sig: int) -> bool:
        self.signal(pid, sig)
        return True

    def pidfd_signal(self, pidfd: int, sig: int) -> bool:
        self.signal(self.fds[pidfd], sig)
        return True

    # --- an event loop's readers, for pidfds ---

    def add_reader(self, fd: int, callback: Callable[..., None], *arguments: Any) -> None:
        self.watched[fd] = (callback, arguments)

    def remove_reader(self, fd: int) -> None:
        self.watched.pop(fd, None)

    def ended(self, pid: int) -> bool:
        process, zygote = self.processes.get(pid), self.zygotes.get(pid)
        return not (process.alive if process else zygote.alive if zygote else False)

    def tell_watchers(self) -> bool:
        """The supervisor hears of the end of processes that it watches itself."""
        for fd, (callback, arguments) in list(self.watched.items()):
            if fd in self.watched and self.ended(self.fds[fd]):
                callback(*arguments)
                return True
        return False

    # --- processes ---

    def new_pid(self) -> int:
        self._next_pid += 1
        return self._next_pid

    def signal(self, pid: int, sig: int) -> None:
        if pid in self.zygotes:
            if sig == signal.SIGKILL:
                self.zygotes[pid].die()
            return
        process = self.processes.get(pid)
        if process is None or not process.alive:
            return
        if sig == signal.SIGKILL:
            self.end(process, -9)
        elif sig == signal.SIGSTOP:
            process.stopped = True
        elif sig == signal.SIGCONT:
            process.stopped = False
            for late in process.pending:
                self.signal(pid, late)
            process.pending.clear()
        elif process.stopped:
            process.pending.append(sig)
        elif not process.deaf:
            self.end(process, 143)

    def end(self, process: Process, status: int) -> None:
        process.state, process.status = "gone", status
        queue = self.queues.get(process.spec.name, [])
        if process in queue:
            queue.remove(process)
        if process.zygote.alive:
            process.zygote.exits.append(process)

    def run(self, process: Process) -> bool:
        """The process does its next step, if it can; whether it did."""
        if not process.alive or process.stopped:
            return False
        step: Callable[[Process], bool] = getattr(self, f"_run_{process.state}")
        return step(process)

    def _run_booting(self, process: Process) -> bool:
        if process.trouble == "boot":
            process.zygote.hear(process, {"event": "failed", "error": "deliberate"})
            self.end(process, 1)
            return True
        process.state = "waiting"
        process.zygote.hear(process, {"event": "standby"})
        return True

    def _run_waiting(self, process: Process) -> bool:
        if process.release.readable:
            self.end(process, 0)
        elif process.arm.readable:
            process.state = "locking"
            self.queues.setdefault(process.spec.name, []).append(process)
        else:
            return False
        return True

    def _run_locking(self, process: Process) -> bool:
        if process.release.readable:
            self.end(process, 0)
            return True
        if self.queues[process.spec.name][0] is not process:
            return False
        name = process.spec.name
        self.epochs[name] = self.epochs.get(name, 0) + 1
        process.state = "active"
        process.zygote.hear(process, {"event": "active", "epoch": self.epochs[name]})
        if process.trouble == "take":
            self.end(process, 7)
        return True

    def _run_active(self, process: Process) -> bool:
        if process.release.readable and not process.deaf:
            self.end(process, 0)
            return True
        return False

    def holders(self, name: str) -> list[Process]:
        """Who works under a name."""
        return [item for item in self.processes.values() if item.spec.name == name and item.state == "active"]


class SimulatedZygote:
    """A real roster in a simulated process; also its `Parent`, `Nursery` and `Link`."""

    def __init__(self, kernel: Kernel, generation: SimulatedGeneration, specs: tuple[HandlerSpec, ...]) -> None:
        self.kernel, self.generation = kernel, generation
        self.pid = kernel.new_pid()
        kernel.zygotes[self.pid] = self
        self.alive = True
        self.inbox: deque[channel.Message] = deque()
        self.events: deque[dict[str, Any]] = deque()
        self.exits: deque[Process] = deque()
        self.children: dict[int, tuple[Child, Callable[[Child, int], None]]] = {}
        # What the roster asks of its parent.
        self.spec: Any = SimpleNamespace(handlers=specs, handler_dir="", target="")
        self.system: Any = kernel
        self.nursery: Any = self
        self.link: Any = self
        self.board: Any = None
        self.app = None
        self.phase = Phase.BOOTING
        self.roster = roster.Roster(self)

    def in_child(self, _close: Callable[[], None]) -> None: ...

    def tell(self, _data: bytes) -> int:
        return 0

    def fork(self, body: Callable[[], int], on_exit: Callable[[Child, int], None]) -> Child:
        self.kernel.in_child = True
        try:
            body()
        finally:
            self.kernel.in_child = False
        pid = self.born.pid
        child = Child(pid, self.kernel.new_fd(pid), 0, self.kernel.now)
        self.children[pid] = (child, on_exit)
        return child

    def run_handler(self, spec: HandlerSpec, arm_fd: int, release_fd: int) -> int:
        """Instead of the handler's code: a process of the simulated kernel."""
        kernel = self.kernel
        trouble = self.generation.trouble.get(spec.name, "")
        self.born = Process(kernel.new_pid(), spec, self, kernel.fds[arm_fd][0], kernel.fds[release_fd][0], trouble)
        kernel.processes[self.born.pid] = self.born
        return 0

    def signal(self, child: Child, sig: int) -> None:
        self.kernel.signal(child.pid, sig)

    def send(self, message: channel.Message, fds: tuple[int, ...] = (), *, keep: bool = True) -> None:
        self.generation.inbox.append((message, [self.kernel.dup(fd) for fd in fds]))

    def fail_boot(self, stage: str, error: str, trace: str = "") -> None:
        self.send(channel.Failed(stage, error, trace))
        self._stop(0.0, False)

    def hear(self, process: Process, event: dict[str, Any]) -> None:
        if self.alive:
            self.events.append({**event, "handler": process.spec.name, "pid": process.pid})

    def turn(self) -> bool:
        """One round of its event loop; whether it had something to do."""
        if not self.alive:
            return False
        busy = bool(self.events or self.exits or self.inbox)
        while self.events:
            self.roster.on_event(self.events.popleft())
        while self.exits:
            process = self.exits.popleft()
            child, on_exit = self.children.pop(process.pid)
            on_exit(child, process.status or 0)
            self.kernel.close(child.pidfd)
        if self.inbox:
            self._obey(self.inbox.popleft())
        self.roster.step(self.kernel.now)
        if self.phase is Phase.STOPPING and not self.children and not self.roster.busy:
            self.die()
        return busy

    def _obey(self, message: channel.Message) -> None:
        match message:
            case channel.Commit():
                if self.phase is Phase.BOOTING:
                    self.phase = Phase.SERVING
            case channel.Stop(timeout, keep):
                self._stop(timeout, keep)
            case channel.ArmHandler(name):
                self.roster.arm(name)
            case channel.ReleaseHandler(name, successor):
                self.roster.release(name, successor=successor)
            case channel.StartHandler(name):
                self.roster.start_standby(name)

    def _stop(self, timeout: float, keep: bool) -> None:
        self.phase = Phase.STOPPING
        self.roster.stop(timeout, keep=keep)

    def die(self) -> None:
        """Its end: its descriptors close, its children are orphans."""
        if not self.alive:
            return
        self.alive = False
        for post in self.roster._posts.values():
            for item in post.children:
                self.kernel.close(item.arm)
                self.kernel.close(item.release)

    def owns(self, name: str) -> bool:
        """Whether it would replace the holder of a name."""
        post = self.roster._posts.get(name)
        return self.alive and post is not None and post.owned


class SimulatedGeneration(Generation):
    """A real generation whose zygote is simulated."""

    def __init__(self, kernel: Kernel, number: int, plan: Any, parts: Parts, trouble: dict[str, str]) -> None:
        self.kernel, self.trouble = kernel, trouble
        self.inbox: deque[tuple[channel.Message, list[int]]] = deque()
        super().__init__(number, "a", plan, parts, kernel, lambda *_: None)  # type: ignore[arg-type]
        self._loop = kernel  # type: ignore[assignment]
        specs = tuple(item for item in plan.handler_specs() if parts.includes(item.pool))
        self.zygote = SimulatedZygote(kernel, self, specs)
        self.pid, self.zygote_alive = self.zygote.pid, True
        self._pidfd = kernel.new_fd(self.pid)
        kernel.add_reader(self._pidfd, self._on_zygote_exit)
        self._process = SimpleNamespace()  # type: ignore[assignment]
        self.send_loaded()
        self.zygote.roster.start()

    def send_loaded(self) -> None:
        self.inbox.append((channel.Loaded(0.0, "wsgi", False, []), []))

    def send(self, message: channel.Message) -> bool:
        if not self.zygote.alive:
            return False
        self.zygote.inbox.append(message)
        return True

    def _check_descriptors(self, pid: int, fds: list[int]) -> None:
        """They are the simulation's."""

    def deliver(self) -> bool:
        """The supervisor reads one message; whether there was one."""
        if not self.inbox:
            return False
        message, fds = self.inbox.popleft()
        self._handle(message, fds)
        for fd in fds:
            self.kernel.close(fd)
        self.changes.notify()
        return True

    def _on_readable(self, most: int = 0) -> None:
        while self.deliver():
            pass


class World:
    """Everything, and the supervisor's event loop under a clock that only the test moves. Host of the handovers."""

    #: `keep` is a pool whose holders may keep their names.
    NAMES = ("one", "two", "keep")

    def __init__(self, monkeypatch: Any) -> None:
        self.kernel = kernel = Kernel()
        fake = FakeOs(kernel)
        monkeypatch.setattr(roster, "os", fake)
        monkeypatch.setattr(generation_module, "os", fake)
        monkeypatch.setattr(views, "os", fake)
        monkeypatch.setattr(roster.ProcessGroup, "create", classmethod(lambda *_: None))
        monkeypatch.setattr(roster, "descendants", lambda *_: set())
        monkeypatch.setattr(roster, "run_handler", self._run_handler)
        self.loop = asyncio.SelectorEventLoop()
        self.loop.time = lambda: kernel.now  # type: ignore[method-assign]
        self.generations: list[SimulatedGeneration] = []
        self.tasks: list[tuple[str, asyncio.Task[Any]]] = []
        self.touched: set[str] = set()
        self.busy = False
        self.trouble: dict[str, str] = {}
        # What a handover asks of its host.
        self.system: Any = kernel
        self.journal: Any = SimpleNamespace(write=lambda *_, **__: None, record=lambda *_, **__: None)
        self.frontend: Any = None
        self.names = Names(self.journal, lambda _: None)
        self.plan = plan()
        self.live: Any = SimpleNamespace(number=0, plan=self.plan)

    def _run_handler(
        self, spec: Any, handler: HandlerSpec, _app: Any, *, arm_fd: int, release_fd: int, **_: Any
    ) -> int:
        zygote = next(item for item in self.kernel.zygotes.values() if item.spec is spec)
        return zygote.run_handler(handler, arm_fd, release_fd)

    def close(self) -> None:
        """End what the supervisor still does."""
        for task in asyncio.all_tasks(self.loop):
            task.cancel()
        self.pump()
        self.loop.close()
        for generation in self.generations:
            generation.board.close()

    def pump(self) -> None:
        """Let the supervisor's tasks go on until they wait for something that has yet to happen."""
        for _ in range(200):
            self.loop.call_soon(self.loop.stop)
            self.loop.run_forever()
            if not self.loop._ready:  # type: ignore[attr-defined]
                return
        raise AssertionError("the supervisor does not come to rest")

    def spawn(self, what: str, work: Coroutine[Any, Any, Any]) -> None:
        """Begin something that has to end one day."""
        self.tasks.append((what, self.loop.create_task(work)))
        self.pump()

    # --- host ---

    def launch(self, plan: Any, parts: Parts) -> SimulatedGeneration:
        number = len(self.generations) + 1
        generation = SimulatedGeneration(self.kernel, number, plan, parts, dict(self.trouble))
        self.generations.append(generation)
        return generation

    async def free_slot(self, *_: Any) -> None: ...

    async def hooks(self, *_: Any) -> None: ...

    async def booting(self, *_: Any) -> None: ...

    def has_accepting(self) -> bool:
        return False

    async def accepting(self, *_: Any) -> None: ...

    async def discard(self, generation: Any, event: Event) -> None:
        generation.move(event)
        await generation.stop(5.0)

    def became_live(self, *_: Any) -> None: ...

    def serves_names(self, generation: Any) -> None: ...

    def log_tail(self, _generation: Any) -> list[str]:
        return []

    # --- what people and the vigil ask for ---

    def handover(self) -> bool:
        """Restart the handlers; False: refused."""
        if self.busy or self.touched:
            return False
        self.busy = True
        self.spawn("handover", self._handover())
        return True

    async def _handover(self) -> None:
        log: Any = SimpleNamespace(write=lambda *_, **__: None)
        handover = Handover(self, self.plan, Options(parts=Parts(web=False)), Report("restart", log))  # type: ignore[arg-type]
        try:
            outcome = await handover.run()
        finally:
            self.busy = False
            self.names.changes.notify()
        assert outcome in ("done", "rolled-back"), (outcome, handover.error)
        if outcome == "done":
            assert handover.new is not None
            self.loop.create_task(self._end_when_nameless(handover.new))

    async def _end_when_nameless(self, generation: Any) -> None:
        await self.names.changes.until(lambda: not self.busy and not self.names.of(generation))
        if generation.alive:
            generation.move(Event.STOPPED)
            await generation.stop(5.0)

    def command(self, kind: str, name: str) -> bool:
        """renew, pause or resume; False: refused."""
        if self.busy or name in self.touched or name not in self.names.owner:
            return False
        owner = self.names.owner[name]
        holder = owner.holder(name)
        if not owner.zygote_alive or (holder and holder.releasing):
            return False
        work = {
            "renew": lambda: self.names.renew(name, owner),
            "pause": lambda: self.names.pause(name),
            "resume": lambda: self.names.resume(name, owner),
        }[kind]()
        self.touched.add(name)
        self.spawn(f"{kind} {name}", self._command(name, work))
        return True

    async def _command(self, name: str, work: Coroutine[Any, Any, bool]) -> None:
        try:
            with contextlib.suppress(InstarError):
                await work
        finally:
            self.touched.discard(name)

    def recover(self) -> bool:
        """What the vigil does: a generation that has names and no zygote is booted again."""
        for generation in self.generations:
            serving = generation.state is GenerationState.SERVING and not generation.zygote_alive
            if serving and self.names.of(generation):
                return self.handover()
        return False

    # --- time ---

    def step(self) -> bool:
        """Everything that can happen now happens, once; whether anything did."""
        moved = self.kernel.tell_watchers()
        for generation in self.generations:
            moved |= generation.deliver()
            moved |= generation.zygote.turn()
        for process in list(self.kernel.processes.values()):
            moved |= self.kernel.run(process)
        self.pump()
        return moved

    def settle(self) -> None:
        """No more faults: let everything come to rest, however long it takes on the clock, and boot what is dead."""
        self.trouble.clear()
        for generation in self.generations:
            generation.trouble.clear()
        for process in self.kernel.processes.values():
            process.deaf = False
            process.trouble = ""
            self.kernel.signal(process.pid, signal.SIGCONT)
        quiet = 0
        for _ in range(3000):
            if self.step() or self.recover():
                quiet = 0
                continue
            quiet += 1
            if quiet > 20:
                return
            self.kernel.now += 2.0
            self.pump()
        raise AssertionError("it does not come to rest")


def plan() -> Any:
    """Three pools of one handler each."""
    specs = tuple(
        HandlerSpec(
            name=name, pool=name, index=1, target="x:y", stop_timeout=4.0, kill_timeout=2.0, keep_name=name == "keep",
            backoff=0.5, backoff_limit=4.0,
        )
        for name in World.NAMES
    )  # fmt: skip
    restart = SimpleNamespace(boot_timeout=30.0, before=[], after=[], on_rollback=[], grace=3.0, boot_nice=0)
    app = SimpleNamespace(target="x:y", name="test")
    return SimpleNamespace(
        handler_specs=lambda: specs, workers=0, config=SimpleNamespace(restart=restart, app=app, handlers={})
    )
