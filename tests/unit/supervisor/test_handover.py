"""The decision table of a handover: what is switched, ended and told when each stage goes wrong.

Everything around it is injected; the real transition table checks each move of the two generations.
"""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from instar.config import Config, load
from instar.listeners.base import Canary
from instar.runtime.scoreboard import Column, Drain
from instar.runtime.spec import HandlerSpec
from instar.supervisor import handover as handover_module
from instar.supervisor.changes import Changes
from instar.supervisor.handover import Handover, Options
from instar.supervisor.hooks import HookError
from instar.supervisor.logstore import LogStore
from instar.supervisor.names import Moved, NameTakingError
from instar.supervisor.plan import Parts, Plan
from instar.supervisor.probe import ProbeError
from instar.supervisor.report import Report
from instar.supervisor.transitions import ALIVE, Event, GenerationState, next_state
from instar.supervisor.views import Failure
from instar.system import System


class FakeGeneration:
    """A generation without processes; its moves are those of the real table."""

    def __init__(self, number: int, slot: str, trace: list[str]) -> None:
        self.number, self.slot, self.trace = number, slot, trace
        self.state = GenerationState.BOOTING
        self.changes = Changes()
        self.failure: Failure | None = None
        self.crashes: list[str] = []
        self.zygote_alive = True
        self.committed = False
        self.ready = False
        self.level = Drain.LIVE
        self.counters = {Column.REQUESTS: 0, Column.ERRORS: 0}
        self.plan: Any = None
        self.pid = 0
        self.workers: dict[int, Any] = {}
        self.board: Any = self
        self.rows = 0
        self.names: tuple[str, ...] = ()

    def move(self, event: Event) -> None:
        self.state = next_state(self.state, event)
        self.trace.append(f"{self.number} {self.state}")
        self.changes.notify()

    @property
    def alive(self) -> bool:
        return self.state in ALIVE

    def all_ready(self) -> bool:
        return self.ready

    def unready(self) -> str:
        return ""

    def ready_indexes(self) -> list[int]:
        return [0, 1]

    def commit(self) -> None:
        self.committed = True
        self.trace.append(f"{self.number} commit")

    def sum(self, column: Column) -> int:
        return self.counters[column]

    def get(self, row: int, column: Column) -> int:
        return 0

    def drain(self, level: Drain) -> None:
        self.level = level

    def gone(self) -> bool:
        return not self.zygote_alive

    def pause_accepting(self, gated: bool) -> None: ...

    def resume_accepting(self, gated: bool) -> None: ...

    def breaks(self, why: str) -> None:
        self.crashes.append(why)
        self.changes.notify()

    def becomes_ready(self) -> None:
        self.ready = True
        self.changes.notify()

    def fails(self, error: str) -> None:
        self.failure = Failure("worker", error)
        self.changes.notify()


class FakeFrontend:
    def __init__(self, trace: list[str]) -> None:
        self.trace, self.live = trace, "a"
        self.canary: Canary | None = None
        self.workers: dict[str, tuple[int, ...]] = {"a": (0,), "b": ()}
        self.gated = False
        self.can_share_out = True
        self.error: OSError | None = None

    def verify(self, slot: str, generation: int) -> None: ...

    def switch(self, slot: str, workers: Sequence[int]) -> None:
        if self.error:
            error, self.error = self.error, None
            raise error
        self.live = slot
        self.trace.append(f"switch to {slot}")

    def apply(self) -> None:
        self.trace.append("canary on" if self.canary else "canary off")


class FakeJournal:
    def __init__(self, trace: list[str]) -> None:
        self.trace = trace

    def write(self, op: str, **fields: Any) -> None:
        self.trace.append(f"journal {op}")

    record = write


class FakeNames:
    """Moves every name at once, unless told otherwise."""

    def __init__(self, trace: list[str]) -> None:
        self.trace = trace
        self.owner: dict[str, Any] = {}
        self.kept: tuple[str, ...] = ()
        self.waiting: set[str] = set()
        self.error: NameTakingError | None = None

    async def move_all(self, names: Sequence[str], to: Any, progress: Callable[[str], None]) -> Moved:
        self.trace.append(f"names {','.join(names)} to {to.number}")
        if self.error:
            raise self.error
        return Moved(tuple(set(names) - set(self.kept)), self.kept)

    async def drop(self, names: Sequence[str]) -> None:
        self.trace.append(f"drop {','.join(names)}")

    async def give_back(self, names: Sequence[str], source: Any, to: Any) -> None:
        self.trace.append(f"give {','.join(names)} back to {to.number}")


class FakeHost:
    """Records what it is asked for, in order."""

    def __init__(self) -> None:
        self.trace: list[str] = []
        self.system = System()
        self.frontend: Any = FakeFrontend(self.trace)
        self.journal: Any = FakeJournal(self.trace)
        self.names: Any = FakeNames(self.trace)
        self.old = FakeGeneration(1, "a", self.trace)
        for event in (Event.WORKERS_READY, Event.CUT_OVER):
            self.old.move(event)
        self.live: Any = self.old
        self.new = FakeGeneration(2, "b", self.trace)
        self.failing_hook = ""
        self.launch_error: Exception | None = None
        self.on_launch: Callable[[], None] = self.new.becomes_ready
        self.discarded: list[Event] = []

    def serves_names(self, generation: Any) -> None:
        self.trace.append(f"{generation.number} serves names")

    def launch(self, plan: Plan, parts: Parts) -> Any:
        if self.launch_error:
            raise self.launch_error
        asyncio.get_running_loop().call_soon(self.on_launch)
        return self.new

    async def free_slot(self, now: bool, progress: Callable[[str], None]) -> None:
        self.trace.append("slot free")

    async def hooks(self, hooks: Sequence[Any], plan: Plan, event: str, generation: int | None) -> None:
        self.trace.append(f"hook {event}")
        if self.failing_hook == event:
            raise HookError(f"hook {event} failed")

    async def discard(self, generation: Any, event: Event) -> None:
        self.discarded.append(event)
        generation.move(event)

    async def booting(self, plan: Plan) -> None: ...

    def has_accepting(self) -> bool:
        return self.failing_hook == "accepting"

    async def accepting(self, generation: Any) -> None:
        self.trace.append("accepting")
        raise HookError("cannot go on: the running one was told already")

    def became_live(self, generation: Any, draining: Any) -> None:
        self.live = generation

    def log_tail(self, generation: Any) -> list[str]:
        return ["its last line"]


@pytest.fixture
def host() -> FakeHost:
    return FakeHost()


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Config:
    file = tmp_path / "instar.toml"
    hook = '["true"]'
    file.write_text(
        f'[app]\ntarget = "app:app"\n[restart]\nboot_timeout = 0.3\ngrace = 0.1\n'
        f"before = [{hook}]\nafter = [{hook}]\non_rollback = [{hook}]\n"
        "[restart.canary]\nduration = 0.2\nmin_requests = 10\nmax_error_rate = 0.1\n"
    )
    monkeypatch.setattr(handover_module, "lower_priority", lambda *_: False)
    return load(file)


@pytest.fixture
def log(tmp_path: Path) -> Iterator[LogStore]:
    store = LogStore(tmp_path / "log")
    yield store
    store.close()


@dataclasses.dataclass
class Attempt:
    """One handover with its probe injected."""

    host: FakeHost
    config: Config
    log: LogStore
    monkeypatch: pytest.MonkeyPatch
    options: Options = dataclasses.field(default_factory=Options)
    probe: Callable[[], Any] | None = None

    async def run(self, meanwhile: Callable[[Handover], Any] | None = None) -> tuple[str, Handover]:
        async def probe_generation(frontend: Any, generation: Any, progress: Any) -> int:
            if self.probe:
                await self.probe()
            return 1

        self.monkeypatch.setattr(handover_module, "probe_generation", probe_generation)
        host: Any = self.host
        handover = Handover(host, Plan.of(self.config), self.options, Report("restart", self.log))
        task = asyncio.create_task(handover.run())
        if meanwhile:
            await meanwhile(handover)
        return await task, handover


@pytest.fixture
def attempt(host: FakeHost, config: Config, log: LogStore, monkeypatch: pytest.MonkeyPatch) -> Attempt:
    return Attempt(host, config, log, monkeypatch)


def untouched(host: FakeHost) -> None:
    """The old generation never noticed."""
    assert host.old.state is GenerationState.SERVING
    assert host.old.level is Drain.LIVE
    assert host.live is host.old
    assert host.frontend.live == "a"
    assert "switch to b" not in host.trace


async def test_a_good_release_takes_over_in_order(host: FakeHost, attempt: Attempt) -> None:
    outcome, handover = await attempt.run()
    assert outcome == "done"
    assert host.trace[2:] == [
        "slot free",
        "hook before",
        "2 ready",
        "journal switch",
        "switch to b",
        "2 commit",
        "2 serving",
        "1 draining",
        "journal after",
        "hook after",
    ]
    assert host.live is host.new and host.old.level is Drain.CLOSE
    assert [stage["stage"] for stage in handover.report.stages] == [
        "wait",
        "before",
        "boot",
        "probe",
        "cut-over",
        "after",
        "grace",
    ]


async def _hang() -> None:
    await asyncio.Event().wait()


async def _refuse() -> None:
    raise ProbeError("/healthz was answered with status 500")


def _break_boot(attempt: Attempt) -> None:
    attempt.host.on_launch = lambda: attempt.host.new.fails("ImportError: no")


def _hang_boot(attempt: Attempt) -> None:
    attempt.host.on_launch = lambda: None


def _fail_launch(attempt: Attempt) -> None:
    attempt.host.launch_error = OSError("cannot fork")


def _fail_hook(attempt: Attempt) -> None:
    attempt.host.failing_hook = "before"


def _fail_probe(attempt: Attempt) -> None:
    attempt.probe = _refuse


def _hang_probe(attempt: Attempt) -> None:
    attempt.probe = _hang


def _die_in_probe(attempt: Attempt) -> None:
    async def probe() -> None:
        attempt.host.new.fails("worker 2 was killed by SIGKILL")
        await _hang()

    attempt.probe = probe


def _fail_switch(attempt: Attempt) -> None:
    attempt.host.frontend.error = OSError("cannot attach")


def _defect(attempt: Attempt) -> None:
    attempt.host.launch_error = KeyError("a defect of ours")


@pytest.mark.parametrize(
    ("spoil", "message", "outcome"),
    [
        (_fail_hook, "hook before failed", "rolled-back"),
        (_fail_launch, "cannot fork", "rolled-back"),
        (_break_boot, "ImportError: no", "rolled-back"),
        (_hang_boot, "was not ready within 0.3 s", "rolled-back"),
        (_fail_probe, "status 500", "rolled-back"),
        (_hang_probe, "was not ready within 0.3 s", "rolled-back"),
        (_die_in_probe, "was killed by SIGKILL", "rolled-back"),
        (_fail_switch, "cannot attach", "rolled-back"),
        (_defect, "unexpected KeyError", "failed"),
    ],
)
async def test_a_failure_before_the_cut_over_leaves_the_old_generation_alone(
    host: FakeHost, attempt: Attempt, spoil: Callable[[Attempt], None], message: str, outcome: str
) -> None:
    spoil(attempt)
    got, handover = await attempt.run()
    assert got == outcome
    assert message in (handover.error or "")
    untouched(host)
    if handover.new:
        assert host.discarded == [Event.BOOT_FAILED]
        assert host.new.state is GenerationState.FAILED
        assert handover.tail == ["its last line"]
    assert host.trace[-1] == "hook on_rollback"


async def test_a_crash_within_the_grace_period_rolls_back(host: FakeHost, attempt: Attempt) -> None:
    async def meanwhile(handover: Handover) -> None:
        while host.live is host.old:
            await asyncio.sleep(0.005)
        host.new.breaks("worker 1 exited with status 9")

    outcome, handover = await attempt.run(meanwhile)
    assert outcome == "rolled-back" and "status 9" in (handover.error or "")
    assert host.old.state is GenerationState.SERVING and host.old.level is Drain.LIVE
    assert host.live is host.old and host.frontend.live == "a"
    assert host.new.state is GenerationState.FAILED
    # Written down before it is done; the clients leave before the processes do.
    assert host.trace.index("journal rollback") < host.trace.index("switch to a") < host.trace.index("2 failed")


async def test_a_failing_after_hook_rolls_back(host: FakeHost, attempt: Attempt) -> None:
    host.failing_hook = "after"
    outcome, handover = await attempt.run()
    assert outcome == "rolled-back" and handover.error == "hook after failed"
    assert host.live is host.old and host.discarded == [Event.BROKE]


async def test_who_hears_of_new_connections_may_refuse_before_names_move(host: FakeHost, attempt: Attempt) -> None:
    host.failing_hook = "accepting"
    host.new.names = ("main.mail.1",)
    outcome, handover = await attempt.run()
    assert outcome == "rolled-back" and handover.error == "cannot go on: the running one was told already"
    assert host.live is host.old
    assert host.trace.index("switch to b") < host.trace.index("accepting")
    assert not any(entry.startswith("names") for entry in host.trace)


async def test_with_nothing_left_to_go_back_to_the_new_generation_goes_on(host: FakeHost, attempt: Attempt) -> None:
    host.failing_hook = "after"

    host.old.zygote_alive = False
    outcome, _ = await attempt.run()
    assert outcome == "failed"
    assert host.live is host.new and host.new.state is GenerationState.SERVING


async def test_a_stop_at_once_in_the_grace_period_is_no_defect(host: FakeHost, attempt: Attempt) -> None:
    async def meanwhile(handover: Handover) -> None:
        async for event in handover.report.watch():
            if event.get("stage") == "grace":
                handover.abort("the supervisor is stopping")
                host.old.move(Event.STOPPED)
                return

    outcome, handover = await attempt.run(meanwhile)
    assert outcome == "failed" and handover.error == "the supervisor is stopping"
    assert host.live is host.new


@pytest.mark.parametrize("stage", ["boot", "probe", "grace"])
async def test_abort(host: FakeHost, attempt: Attempt, stage: str) -> None:
    if stage == "boot":
        _hang_boot(attempt)
    elif stage == "probe":
        _hang_probe(attempt)

    async def meanwhile(handover: Handover) -> None:
        async for event in handover.report.watch():
            if event.get("stage") == stage:
                handover.abort("aborted by a test")
                return

    outcome, handover = await attempt.run(meanwhile)
    assert outcome == "rolled-back" and handover.error == "aborted by a test"
    assert host.live is host.old and host.old.state is GenerationState.SERVING
    assert host.new.state is GenerationState.FAILED


CANARY = Options(canary=Canary(share=0.1), canary_seconds=0.3)


async def test_a_canary_that_does_well_is_followed_by_the_cut_over(host: FakeHost, attempt: Attempt) -> None:
    attempt.options = CANARY
    host.new.counters = {Column.REQUESTS: 100, Column.ERRORS: 10}
    outcome, _ = await attempt.run()
    assert outcome == "done"
    # Its workers are replaced if they die from before the first client on.
    assert host.trace.index("2 commit") < host.trace.index("canary on") < host.trace.index("canary off")
    assert host.trace.index("canary off") < host.trace.index("switch to b")


async def test_errors_end_a_canary(host: FakeHost, attempt: Attempt) -> None:
    attempt.options = CANARY
    host.new.counters = {Column.REQUESTS: 100, Column.ERRORS: 11}
    outcome, handover = await attempt.run()
    assert outcome == "rolled-back" and "11 of 100 requests" in (handover.error or "")
    untouched(host)
    assert host.trace.index("canary off") < host.trace.index("2 failed")


async def test_too_few_requests_prove_nothing(host: FakeHost, attempt: Attempt) -> None:
    attempt.options = CANARY
    host.new.counters = {Column.REQUESTS: 9, Column.ERRORS: 9}
    assert (await attempt.run())[0] == "done"


async def test_a_crash_ends_a_canary(host: FakeHost, attempt: Attempt) -> None:
    attempt.options = CANARY
    host.new.crashes.append("worker 1 was killed by SIGSEGV")
    outcome, handover = await attempt.run()
    assert outcome == "rolled-back" and "SIGSEGV" in (handover.error or "")
    untouched(host)


async def test_the_first_boot_has_nothing_to_wait_for_or_to_go_back_to(host: FakeHost, attempt: Attempt) -> None:
    host.live = None
    outcome, handover = await attempt.run()
    assert outcome == "done" and handover.draining is None
    assert "slot free" not in host.trace
    host.live, host.new = None, FakeGeneration(3, "b", host.trace)
    host.on_launch = lambda: host.new.fails("no")
    assert (await attempt.run())[0] == "failed"


async def test_a_report_tells_late_watchers_everything(host: FakeHost, attempt: Attempt) -> None:
    _, handover = await attempt.run()
    handover.report.finish("done", {"generation": 2, "from": 1, "serving": 2}, None, [])
    events = [event async for event in handover.report.watch()]
    assert events[-1]["outcome"] == "done"
    assert [e["stage"] for e in events if e.get("state") == "done"][-1] == "grace"
    assert events[0] == {"event": "stage", "stage": "wait", "state": "started", "seconds": 0.0}


@pytest.fixture
def pooled(host: FakeHost) -> FakeHost:
    """The old generation holds two names, which the new one has standbys for."""
    host.new.names = ("main.pool.1", "main.pool.2")
    host.names.owner = {"main.pool.1": host.old, "main.pool.2": host.old}
    return host


@pytest.fixture
def configured(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    names = [HandlerSpec("main.pool.1", "pool", 1), HandlerSpec("main.pool.2", "pool", 2)]
    monkeypatch.setattr(Plan, "handler_specs", lambda self: tuple(names))


@pytest.mark.usefixtures("configured")
async def test_names_pass_after_the_web_has_switched(pooled: FakeHost, attempt: Attempt) -> None:
    outcome, handover = await attempt.run()
    assert outcome == "done" and handover.kept == ()
    trace = pooled.trace
    assert trace.index("switch to b") < trace.index("names main.pool.1,main.pool.2 to 2") < trace.index("hook after")


@pytest.mark.usefixtures("configured")
async def test_a_kept_name_is_told_and_fails_nothing(pooled: FakeHost, attempt: Attempt) -> None:
    pooled.names.kept = ("main.pool.2",)
    outcome, handover = await attempt.run()
    assert outcome == "done" and handover.kept == ("main.pool.2",)


@pytest.mark.usefixtures("configured")
async def test_a_successor_that_does_not_take_its_name_rolls_everything_back(
    pooled: FakeHost, attempt: Attempt
) -> None:
    pooled.names.error = NameTakingError("main.pool.1 was not taken")
    outcome, handover = await attempt.run()
    assert outcome == "rolled-back" and handover.error == "main.pool.1 was not taken"
    trace = pooled.trace
    assert trace.index("switch to a") < trace.index("give main.pool.1,main.pool.2 back to 1") < trace.index("2 failed")
    assert pooled.live is pooled.old


@pytest.mark.usefixtures("configured")
async def test_a_crash_in_the_grace_period_returns_the_names(pooled: FakeHost, attempt: Attempt) -> None:
    async def meanwhile(handover: Handover) -> None:
        async for event in handover.report.watch():
            if event.get("stage") == "grace":
                pooled.new.breaks("handler main.pool.1 exited with status 1")
                return

    outcome, _ = await attempt.run(meanwhile)
    assert outcome == "rolled-back"
    assert "give main.pool.1,main.pool.2 back to 1" in pooled.trace


@pytest.mark.usefixtures("configured")
async def test_only_handlers_leaves_the_web_alone(pooled: FakeHost, attempt: Attempt) -> None:
    attempt.options = Options(parts=Parts(web=False))
    outcome, handover = await attempt.run()
    assert outcome == "done"
    assert "switch to b" not in pooled.trace and "slot free" not in pooled.trace
    assert pooled.live is pooled.old and pooled.old.state is GenerationState.SERVING
    assert "2 serves names" in pooled.trace
    assert "probe" not in [stage["stage"] for stage in handover.report.stages]


@pytest.mark.usefixtures("configured")
async def test_names_that_no_pool_has_any_more_are_released(pooled: FakeHost, attempt: Attempt) -> None:
    pooled.names.owner["main.gone.1"] = pooled.old
    await attempt.run()
    assert "drop main.gone.1" in pooled.trace


async def test_a_canary_that_no_client_can_reach_is_refused(host: FakeHost, attempt: Attempt) -> None:
    attempt.options = CANARY
    host.frontend.can_share_out = False
    outcome, handover = await attempt.run()
    assert outcome == "rolled-back" and "cannot run a canary" in (handover.error or "")
    untouched(host)
