"""Names under any order of handovers, commands and faults: the real decisions in a simulated world (handler_world).

Whatever happens, a name never has two holders, no process waits for a name before its generation may have it, and once
the faults end every command has come to its end and every name that isn't paused is held, in one generation alone.
"""

from __future__ import annotations

import importlib.util
import signal
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

_SPEC = importlib.util.spec_from_file_location("handler_world", Path(__file__).with_name("handler_world.py"))
assert _SPEC is not None and _SPEC.loader is not None
handler_world: Any = importlib.util.module_from_spec(_SPEC)
sys.modules["handler_world"] = handler_world
_SPEC.loader.exec_module(handler_world)

NAMES = handler_world.World.NAMES
TROUBLES = st.dictionaries(st.sampled_from(NAMES), st.sampled_from(("boot", "take")), max_size=1)

SIGNALS = (signal.SIGTERM, signal.SIGKILL, signal.SIGSTOP, signal.SIGCONT)


class NamesMachine(RuleBasedStateMachine):
    """Rules are single events; most of what happens is in the order in which they come."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = pytest.MonkeyPatch()
        self.world = handler_world.World(self.patches)
        self.world.handover()
        self.world.settle()
        assert set(self.world.names.owner) == set(NAMES)

    def teardown(self) -> None:
        try:
            self.world.settle()
            self.check_end()
        finally:
            self.world.close()
            self.patches.undo()

    def living(self, index: int) -> Any:
        processes = [item for item in self.world.kernel.processes.values() if item.alive]
        return processes[index % len(processes)] if processes else None

    # --- what is asked for ---

    @rule(trouble=TROUBLES)
    def restart(self, trouble: dict[str, str]) -> None:
        self.world.trouble = trouble
        self.world.handover()

    @rule(kind=st.sampled_from(("renew", "renew", "pause", "resume")), name=st.sampled_from(NAMES))
    def command(self, kind: str, name: str) -> None:
        self.world.command(kind, name)

    # --- what happens anyway, in any order ---

    @rule(index=st.integers(0, 30), times=st.integers(1, 3))
    def process_runs(self, index: int, times: int) -> None:
        for _ in range(times):
            if process := self.living(index):
                self.world.kernel.run(process)

    @rule(index=st.integers(0, 5))
    def zygote_turns(self, index: int) -> None:
        zygotes = [item.zygote for item in self.world.generations if item.zygote.alive]
        if zygotes:
            zygotes[index % len(zygotes)].turn()

    @rule(index=st.integers(0, 5))
    def supervisor_hears(self, index: int) -> None:
        waiting = [item for item in self.world.generations if item.inbox]
        if waiting:
            waiting[index % len(waiting)].deliver()
        else:
            self.world.kernel.tell_watchers()
        self.world.pump()

    @rule(times=st.integers(1, 8))
    def everything_goes_on(self, times: int) -> None:
        for _ in range(times):
            self.world.step()

    @rule(seconds=st.sampled_from((0.1, 1.0, 3.0, 11.0)))
    def time_passes(self, seconds: float) -> None:
        self.world.kernel.now += seconds
        self.world.pump()

    # --- faults ---

    @rule(
        index=st.integers(0, 30), sig=st.sampled_from((signal.SIGTERM, signal.SIGKILL, signal.SIGSTOP, signal.SIGCONT))
    )
    def signal_arrives(self, index: int, sig: int) -> None:
        if process := self.living(index):
            self.world.kernel.signal(process.pid, sig)

    @rule(index=st.integers(0, 30), deaf=st.booleans())
    def goes_deaf(self, index: int, deaf: bool) -> None:
        if process := self.living(index):
            process.deaf = deaf

    @rule(index=st.integers(0, 30), kind=st.sampled_from(("boot", "take", "")))
    def surroundings_break(self, index: int, kind: str) -> None:
        generation = self.world.generations[index % len(self.world.generations)]
        generation.trouble[NAMES[index % len(NAMES)]] = kind

    @rule(index=st.integers(0, 5))
    def zygote_dies(self, index: int) -> None:
        zygotes = [item.zygote for item in self.world.generations if item.zygote.alive]
        if zygotes:
            zygotes[index % len(zygotes)].die()

    # --- what must be true ---

    @invariant()
    def one_holder(self) -> None:
        for name in NAMES:
            assert len(self.world.kernel.holders(name)) <= 1

    @invariant()
    def nobody_waits_for_a_name_before_its_generation_may(self) -> None:
        for process in self.world.kernel.processes.values():
            if process.state in ("locking", "active"):
                assert process.zygote.generation.committed

    def check_end(self) -> None:
        world = self.world
        assert [what for what, task in world.tasks if not task.done()] == []
        for _, task in world.tasks:
            if task.exception():
                raise task.exception()
        for name in NAMES:
            holders = world.kernel.holders(name)
            owning = [item for item in world.generations if item.zygote.owns(name)]
            if name in world.names.paused:
                assert holders == [] and owning == [], (name, "is paused")
                continue
            if name not in world.names.owner:
                continue
            assert len(holders) == 1, (name, holders)
            owner = world.names.owner[name]
            assert holders[0].zygote is owner.zygote, (name, "is held by another generation than its owner")
            assert owning == [owner], (name, [item.number for item in owning], owner.number)


NamesMachine.TestCase.settings = settings(
    max_examples=150,
    stateful_step_count=60,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
TestNames = NamesMachine.TestCase
