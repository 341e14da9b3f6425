"""A world in which the supervisor can die after each of its effects, and is followed by another one.

Real are the decisions: `Handover`, `Operations`, `Registry`, `Adoption`, `interrupted`, the journal, the transitions.
Simulated is what outlives a supervisor: zygotes with their workers and handlers, the kernel's steering and its locks.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import itertools
import json
from collections.abc import Callable, Coroutine, Iterable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from instar.config import Config
from instar.runtime.scoreboard import Drain
from instar.supervisor import handover as handover_module
from instar.supervisor import registry as registry_module
from instar.supervisor import vigil as vigil_module
from instar.supervisor.adoption import Adoption
from instar.supervisor.changes import Changes
from instar.supervisor.handover import Options
from instar.supervisor.hooks import HookError
from instar.supervisor.interrupted import decide, read_story
from instar.supervisor.journal import Journal, read
from instar.supervisor.names import Moved, NameTakingError
from instar.supervisor.operations import Operations
from instar.supervisor.plan import Parts, Plan
from instar.supervisor.probe import ProbeError
from instar.supervisor.registry import Outside, Registry
from instar.supervisor.tasks import Tasks
from instar.supervisor.transitions import ALIVE, Event, GenerationState, next_state
from instar.supervisor.views import Failure
from instar.supervisor.vigil import Vigil
from instar.system import System

#: Beginnings of the names of tasks that come to an end.
_BUSY = ("restart", "rollback", "boot", "recovery", "restore", "retire", "end orphans")
_BOOT = (("before", ""), ("after", "1"))
#: Looks at the event loop after which nothing moves any more without an event from outside.
_TURNS = 2000


class Crash(BaseException):
    """SIGKILL for the supervisor."""


@dataclasses.dataclass
class Process:
    """All processes of a generation: they live and die together here."""

    number: int
    slot: str
    plan: Plan
    parts: Parts
    names: tuple[str, ...]
    ready: bool = False
    committed: bool = False
    accepting: bool = True
    level: Drain = Drain.LIVE
    web: bool = True
    #: `Trouble` is about it.
    troubled: bool = False
    #: Standbys that may take their names.
    armed: set[str] = dataclasses.field(default_factory=set)


@dataclasses.dataclass
class Trouble:
    """What goes wrong with the generations that the first supervisor starts after its own boot."""

    boot: bool = False
    probe: bool = False
    #: A name is not taken.
    names: bool = False
    #: It breaks as soon as clients come.
    grace: bool = False
    hooks: frozenset[str] = frozenset()


class World:
    """What outlives supervisors. `crash_at`: the number of the effect after which this one dies; 0: it lives."""

    def __init__(self, folder: Path, config: Config) -> None:
        self.folder = folder
        self.config = config
        self.processes: dict[int, Process] = {}
        self.steered = "a"
        self.holders: dict[str, int] = {}
        self.trouble = Trouble()
        self.journal = folder / "journal.jsonl"
        self.journal.unlink(missing_ok=True)
        #: Of the supervisor that lives.
        self.journals: list[Journal] = []
        self.trace: list[str] = []
        self.effects = 0
        self.lives = 0
        self.crash_at = 0
        self.dead = False
        self.died: asyncio.Future[None] | None = None

    def act(self, what: str, change: Callable[[], object]) -> None:
        """An effect of the supervisor; the dead have none."""
        if self.dead:
            raise Crash
        change()
        self._check(what)
        self.trace.append(what)
        self.effects += 1
        if self.effects == self.crash_at:
            self.trace.append("-- the supervisor dies --")
            self.dead = True
            if self.died and not self.died.done():
                self.died.set_result(None)
            raise Crash

    def _check(self, what: str) -> None:
        self.settle()
        serving = [item for item in self.processes.values() if item.web and item.slot == self.steered]
        assert len({item.slot for item in self.processes.values() if item.web and item.ready}) <= 2, what
        # New connections always find somebody, unless nobody lives at all.
        able = [item for item in self.processes.values() if item.web and item.committed and item.accepting]
        assert serving or not able, f"nobody serves after: {what}"

    def settle(self) -> None:
        """What the kernel and the zygotes do without a supervisor."""
        for name, number in list(self.holders.items()):
            if number not in self.processes:
                del self.holders[name]
        for number in sorted(self.processes, reverse=True):
            for name in self.processes[number].armed - set(self.holders):
                self.holders[name] = number

    def kill(self, number: int) -> None:
        """SIGKILL for a generation."""
        self.processes.pop(number, None)
        self.settle()

    # --- the lives of supervisors -------------------------------------------------------------------

    def live(self, script: Callable[[Life], Coroutine[Any, Any, None]] | None = None, *, crash_at: int = 0) -> int:
        """One supervisor from its start until it has nothing to do any more, or dies; the number of its effects."""
        self.effects, self.dead = 0, False
        self.lives += 1
        self.crash_at = crash_at
        asyncio.run(self._live(script))
        return self.effects

    async def _live(self, script: Callable[[Life], Coroutine[Any, Any, None]] | None) -> None:
        loop = asyncio.get_running_loop()
        self.died = loop.create_future()
        loop.set_exception_handler(lambda *_: None)
        task = asyncio.create_task(self._begin(script))
        await asyncio.wait({task, self.died}, return_when=asyncio.FIRST_COMPLETED)
        if not self.dead:
            task.result()
            # Whatever waits now waits for ever: it has no effect when it is ended.
            self.dead = True
        for other in asyncio.all_tasks() - {asyncio.current_task()}:
            other.cancel()
        await asyncio.gather(*asyncio.all_tasks() - {asyncio.current_task()}, return_exceptions=True)
        # A process that died has no descriptors.
        self.journals.pop().close()

    async def _begin(self, script: Callable[[Life], Coroutine[Any, Any, None]] | None) -> None:
        life = Life(self)
        await life.start()
        if script:
            await script(life)
        await life.rest()


class Life:
    """One supervisor."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.problems: list[str] = []
        system = WorldSystem(world)
        self.log: Any = SimpleNamespace(write=self._write, tail=lambda *_, **__: [])
        self.frontend: Any = WorldFrontend(world)
        state: Any = SimpleNamespace(control=world.folder, output=world.folder, journal=world.journal, app=world.folder)
        outside = Outside(state, self.frontend, self.log, lambda: None, lambda _: None, system)
        self.journal = Journal(world.journal, system)
        world.journals.append(self.journal)
        self.tasks = Tasks(self._write)
        self.services: Any = WorldServices()
        self.registry = Registry(outside, self.journal, self.tasks)
        self.registry.names.world = world  # type: ignore[attr-defined]
        self.operations = Operations(
            world.config, lambda: world.config, self.registry, self.services, self.log, self.tasks
        )
        self.vigil = Vigil(self.registry, self.operations, self.log, self.tasks)

    def _write(self, text: str, **_: object) -> None:
        if "unexpected" in text and not self.world.dead:
            self.problems.append(text)

    async def start(self) -> None:
        """As `Supervisor.serve`."""
        remains = WorldRemains(self.world)
        entries = read(self.world.journal)
        if entries and not read_story(entries).stopped:
            adoption: Any = Adoption(
                remains,  # type: ignore[arg-type]
                self.registry, self.operations, self.services, self.log, self.tasks,
            )  # fmt: skip
            if await adoption.run(1):
                self.vigil.restore_names()
                return
        self.journal.write("start", pid=1)
        await self.operations.begin("boot", Plan.of(self.world.config), Options()).wait()

    async def rest(self) -> None:
        """Wait until nothing moves."""
        for _ in range(_TURNS):
            waiting = {task.get_name() for task in asyncio.all_tasks()}
            if not any(name.startswith(_BUSY) for name in waiting):
                break
            await asyncio.sleep(0)
        else:
            raise AssertionError(f"it never ends: {[task.get_name() for task in asyncio.all_tasks()]}")
        for _ in range(20):
            await asyncio.sleep(0)
        assert not self.problems, self.problems


class WorldSystem(System):
    """Journal entries are effects."""

    def __init__(self, world: World) -> None:
        super().__init__()
        self._world = world

    def append(self, fd: int, data: bytes) -> None:
        self._world.act(f"journal {json.loads(data)['op']}", lambda: System.append(self, fd, data))


class WorldServices:
    async def adopt(self, plan: Plan) -> None: ...

    async def follow(self, plan: Plan) -> None: ...

    async def end_leftovers(self) -> None: ...


class WorldFrontend:
    """The steering program: the kernel's part is `World.steered`."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.live: Any = "a"
        self.canary: object = None
        self.workers: dict[str, tuple[int, ...]] = {}
        self.planned: dict[str, int] = {}
        self.one_socket: dict[str, bool] = {}
        self.dropped: set[str] = set()
        self.listeners: dict[str, Any] = {}
        self.gated, self.all_steered, self.can_share_out = False, True, True

    def restore(self, *_: object) -> None:
        self.apply()

    def forget(self, binds: Iterable[str]) -> None: ...

    def close(self, binds: Iterable[str]) -> None: ...

    def verify(self, slot: str, generation: int) -> None: ...

    def release(self, slot: str) -> None: ...

    def owns(self, sock: object) -> bool:
        return True

    def backlog_empty(self, slot: str) -> bool:
        return True

    def switch(self, slot: str, workers: Sequence[int]) -> None:
        self.live = slot
        self.apply()

    def apply(self) -> None:
        self._world.act(f"steer to {self.live}", lambda: setattr(self._world, "steered", self.live))


class WorldGeneration:
    """The supervisor's view of a generation."""

    def __init__(self, world: World, process: Process) -> None:
        self.world, self.process = world, process
        self.number, self.slot, self.plan, self.parts = process.number, process.slot, process.plan, process.parts
        self.names = process.names
        self.size = 2 if process.parts.web else 0
        self.state = GenerationState.BOOTING
        self.changes = Changes()
        self.failure: Failure | None = None
        self.crashes: list[str] = []
        self.committed = self.paused = False
        self.kept_until: float | None = None
        self.handlers: dict[int, Any] = {}
        self.loaded: object = object()
        self.pid = process.number
        self.workers = {1: SimpleNamespace(ready=True, index=0)} if process.parts.web else {}
        self.board: Any = SimpleNamespace(rows=0, get=lambda *_: 0)
        self.on_asked = self.on_forked = None

    def take_over(self, contact: Any, state: GenerationState, since: float) -> None:
        self.state = state
        self.committed, self.paused = self.process.committed, not self.process.accepting

    @property
    def alive(self) -> bool:
        return self.state in ALIVE

    @property
    def zygote_alive(self) -> bool:
        return self.process.number in self.world.processes

    def move(self, event: Event) -> None:
        self.state = next_state(self.state, event)
        self.changes.notify()

    def gone(self) -> bool:
        return not self.zygote_alive

    def all_ready(self) -> bool:
        return self.process.ready

    def unready(self) -> str:
        return ""

    def ready_indexes(self) -> list[int]:
        return [0] if self.process.ready else []

    def board_rows(self) -> list[int]:
        return []

    def sum(self, column: object) -> int:
        return 1000

    def holder(self, name: str) -> object:
        return self.world.holders.get(name) == self.number or None

    def commit(self) -> None:
        self.committed = True
        self._act("commit", "committed", True)
        if self.world.trouble.grace and self.process.troubled:
            self.crashes.append("it broke")

    def drain(self, level: Drain) -> None:
        self._act(f"drain {level.name}", "level", level)

    def pause_accepting(self, gated: bool) -> None:
        self._act("pause", "accepting", False)

    def resume_accepting(self, gated: bool) -> None:
        self._act("resume", "accepting", True)

    def _act(self, what: str, field: str, value: object) -> None:
        self.world.act(f"g{self.number} {what}", lambda: setattr(self.process, field, value))

    def kill(self) -> None:
        self.world.act(f"g{self.number} killed", lambda: self.world.kill(self.number))

    async def stop(self, timeout: float) -> None:
        if self.zygote_alive:
            self.world.act(f"g{self.number} ended", lambda: self.world.kill(self.number))

    async def stop_web(self, timeout: float) -> None:
        self._act("web ended", "web", False)

    def close(self) -> None: ...


class WorldNames:
    """Who holds what is the kernel's; the order of arming, release and taking is that of `Names`."""

    world: World

    def __init__(self, journal: Journal, log: object, shared: object = None) -> None:
        self._journal = journal
        self.owner: dict[str, Any] = {}
        self.paused: set[str] = set()
        self.waiting: set[str] = set()
        self.changes = Changes()

    def of(self, generation: Any) -> list[str]:
        return [name for name, owner in self.owner.items() if owner is generation]

    def adopt(self, generations: Sequence[Any], live: Any, *, arm: bool) -> None:
        by_number = {item.number: item for item in generations}
        for name, number in self.world.holders.items():
            self.owner[name] = by_number[number]
        for name in live.names:
            if self.owner.setdefault(name, live) is live and arm and not live.holder(name):
                self._arm(name, live)

    async def move_all(self, names: Iterable[str], to: Any, progress: object) -> Moved:
        wanted = list(names)
        if wanted:
            self._journal.write("names", generation=to.number, names=wanted)
        results = await asyncio.gather(*(self._move(name, to) for name in wanted), return_exceptions=True)
        for result in results:
            if isinstance(result, BaseException):
                raise result
        return Moved(tuple(wanted))

    async def _move(self, name: str, to: Any) -> None:
        await asyncio.sleep(0)
        if not to.zygote_alive:
            raise NameTakingError(f"{name} was not taken: the zygote is dead")
        self._arm(name, to)
        if self.world.holders.get(name) != to.number:
            self._release(name)
        self.owner[name] = to
        self.changes.notify()
        if self.world.trouble.names and to.process.troubled:
            # Its zygote goes on trying.
            raise NameTakingError(f"{name} was not taken")

    def _arm(self, name: str, to: Any) -> None:
        if to.zygote_alive:
            self.world.act(f"arm {name} of g{to.number}", lambda: to.process.armed.add(name))

    def _release(self, name: str) -> None:
        """The holder leaves; it is not armed again."""
        holder = self.world.processes.get(self.world.holders.get(name, 0))

        def leave() -> None:
            if holder:
                holder.armed.discard(name)
            self.world.holders.pop(name, None)

        self.world.act(f"{name} leaves", leave)

    async def drop(self, names: Iterable[str]) -> None:
        assert not list(names)

    async def give_back(self, names: Iterable[str], source: Any, to: Any) -> None:
        for name in names:
            await asyncio.sleep(0)
            self.owner[name] = to
            self._arm(name, to)
            if self.world.holders.get(name) != to.number:
                self._release(name)
        self.changes.notify()

    def forget(self, generation: Any) -> None:
        for name in self.of(generation):
            del self.owner[name]
        self.changes.notify()


class WorldRemains:
    """What `find_remains` finds."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.story = read_story(read(world.journal))
        ready = {number: item for number, item in world.processes.items() if item.ready}
        self.contacts: dict[int, Any] = {number: _contact(item) for number, item in ready.items()}
        self.records = {number: contact.record for number, contact in self.contacts.items()}
        self._deaf = sorted(set(world.processes) - set(ready))
        self.deaf: list[int] = []
        self.orphans: list[int] = []
        self.refused: list[str] = []
        self.decision = decide(self.story, self.contacts)

    def kill(self) -> None:
        for number in self._deaf:
            self._world.act(f"g{number} killed", lambda number=number: self._world.kill(number))

    def close(self) -> None: ...


def _contact(process: Process) -> Any:
    listener = SimpleNamespace(bind="127.0.0.1:80", mode="steered", cookies={})
    plan, parts = process.plan, process.parts
    record = SimpleNamespace(number=process.number, slot=process.slot, plan=plan, parts=parts, listeners=(listener,))
    return SimpleNamespace(record=record, sockets={}, queues=[], process=process)


def install(world_of: Callable[[], World], patch: pytest.MonkeyPatch) -> None:
    """Put the simulated parts where the real code makes or calls the real ones."""

    def launch(plan: Plan, number: int, slot: Any, *, parts: Parts, **_: object) -> Any:
        world = world_of()
        names = tuple(item.name for item in plan.handler_specs() if parts.includes(item.pool))
        process = Process(number, slot, plan, parts, names, web=parts.web, troubled=world.lives == 1 and number > 1)
        world.act(f"g{number} launched", lambda: world.processes.update({number: process}))
        generation = WorldGeneration(world, process)

        def boots() -> None:
            if world.trouble.boot and process.troubled:
                generation.failure = Failure("load", "ImportError")
            elif not world.dead:
                process.ready = True
            generation.changes.notify()

        asyncio.get_running_loop().call_soon(boots)
        return generation

    def adopted(number: int, *_: object, adopted: Any = None) -> Any:
        world = world_of()
        if adopted is None:
            # Remembered only: a release that a rollback may boot again.
            return SimpleNamespace(number=number, state=None, close=lambda: None, workers={})
        return WorldGeneration(world, adopted.process)

    async def probe(frontend: object, generation: Any, progress: object) -> int:
        await asyncio.sleep(0)
        if world_of().trouble.probe and generation.process.troubled:
            raise ProbeError("/ was answered with status 500")
        return 1

    async def hooks(hooks: object, plan: object, output: object, env: dict[str, str], system: object) -> None:
        await asyncio.sleep(0)
        world_of().act(f"hook {env['INSTAR_HOOK']}", lambda: None)
        # The boot's own hooks go well: of `before` it has no number, of `after` the first.
        event = env["INSTAR_HOOK"]
        fails = world_of().lives == 1 and event in world_of().trouble.hooks
        if fails and (event, env["INSTAR_GENERATION"]) not in _BOOT:
            raise HookError("the hook failed")

    patch.setattr(registry_module, "launch", launch)
    patch.setattr(registry_module, "Generation", adopted)
    patch.setattr(registry_module, "Names", WorldNames)
    patch.setattr(registry_module, "run_hooks", hooks)
    patch.setattr(registry_module, "control_path", lambda state, number: state.control / f"g{number}.sock")
    patch.setattr(registry_module.jobs, "document", lambda state, number: state.control / f"g{number}.jobs")
    launcher = SimpleNamespace(follow=lambda _: None)
    patch.setattr(registry_module, "JobLauncher", lambda *_: launcher)
    patch.setattr(handover_module, "probe_generation", probe)
    patch.setattr(vigil_module, "_BALANCE_EVERY", 0.0)
    patch.setattr(handover_module, "lower_priority", lambda *_: False)


def subsets(numbers: Iterable[int], most: int) -> list[tuple[int, ...]]:
    """All of them with so many members at most, the empty one first."""
    ordered = sorted(numbers)
    return [found for size in range(most + 1) for found in itertools.combinations(ordered, size)]


def problems(world: World) -> list[str]:
    """What is not as it must be at the end; empty when all is well."""
    found = []
    story = read_story(read(world.journal))
    web = [item for item in world.processes.values() if item.web and item.parts.web]
    serving = [item for item in web if item.slot == world.steered and item.number not in story.kept]
    if len(serving) != 1:
        found.append(f"{len(serving)} generations serve")
    for item in serving:
        if not (item.ready and item.committed and item.accepting and item.level is Drain.LIVE):
            found.append(f"g{item.number} serves, but {item}")
        if story.live != item.number:
            found.append(f"g{item.number} serves, the journal says {story.live}")
    names = {item.name for item in Plan.of(world.config).handler_specs()}
    if set(world.holders) != names:
        found.append(f"held are {world.holders}")
    useful = {item.number for item in serving} | set(story.kept) | set(world.holders.values())
    if left := set(world.processes) - useful:
        found.append(f"left over: {left}")
    if story.operations:
        found.append(f"without a result: {story.operations}")
    entries = read(world.journal)
    results = [entry["began"] for entry in entries if entry["op"] == "result" and entry.get("began")]
    if len(results) != len(set(results)):
        found.append(f"results twice: {results}")
    return found


@contextlib.contextmanager
def explained(world: World, *what: object) -> Any:
    """A failure with the way that led to it."""
    try:
        yield
    except AssertionError as error:
        trace = "\n".join(f"  {line}" for line in world.trace)
        raise AssertionError(f"{what}: {error}\n{trace}") from error
