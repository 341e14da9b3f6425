"""Every way through a handover with a SIGKILL of the supervisor behind each effect, and others that die with it.

After each the next supervisor must lead to the same end: one generation serves, every name is held, each operation has
one result, and nothing is left over.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from crash_world import Life, Trouble, World, explained, install, problems, subsets

from instar.config import Config, load
from instar.listeners.base import Canary
from instar.supervisor.handover import Options
from instar.supervisor.plan import Parts, Plan

Script = Callable[[Life], Coroutine[Any, Any, None]]


async def _restart(life: Life, options: Options = Options()) -> None:  # noqa: B008 - frozen
    await life.operations.begin("restart", Plan.of(life.world.config), options).wait()


async def _handlers(life: Life) -> None:
    await _restart(life, Options(parts=Parts(web=False)))


async def _one_pool(life: Life) -> None:
    await _restart(life, Options(parts=Parts(web=False, pools=frozenset({"one"}))))


async def _web(life: Life) -> None:
    await _restart(life, Options(parts=Parts(handlers=False)))


async def _canary(life: Life) -> None:
    await _restart(life, Options(canary=Canary(10), canary_seconds=0.0))


async def _keep(life: Life) -> None:
    await _restart(life, Options(keep_old=3600.0))


async def _swap_back(life: Life) -> None:
    await _keep(life)
    await life.operations.rollback().wait()


async def _boot_back(life: Life) -> None:
    await _restart(life)
    await life.rest()
    await life.operations.rollback().wait()


async def _twice(life: Life) -> None:
    await _handlers(life)
    await _restart(life)


@dataclasses.dataclass(frozen=True)
class Case:
    """What is asked for, and what goes wrong with it."""

    name: str
    script: Script | None
    trouble: Trouble = dataclasses.field(default_factory=Trouble)


CASES = (
    Case("boot", None),
    Case("good", _restart),
    Case("fails to boot", _restart, Trouble(boot=True)),
    Case("fails the probe", _restart, Trouble(probe=True)),
    Case("hook before fails", _restart, Trouble(hooks=frozenset({"before"}))),
    Case("hook after fails", _restart, Trouble(hooks=frozenset({"after"}))),
    Case("canary", _canary),
    Case("name not taken", _restart, Trouble(names=True)),
    Case("breaks within the grace period", _restart, Trouble(grace=True)),
    Case("keep old", _keep),
    Case("swap back", _swap_back),
    Case("boot back", _boot_back),
    Case("web only", _web),
    Case("handlers only", _handlers),
    Case("one pool", _one_pool),
    Case("handlers, name not taken", _handlers, Trouble(names=True)),
    Case("handlers, then all", _twice),
)


@pytest.fixture
def config(tmp_path: Path) -> Config:
    file = tmp_path / "instar.toml"
    hook = '["true"]'
    file.write_text(
        f'[app]\nname = "a"\ntarget = "app:app"\n[restart]\ngrace = 0.0\nbefore = [{hook}]\nafter = [{hook}]\n'
        f'on_rollback = [{hook}]\n[handlers.one]\ntarget = "x:y"\n[handlers.two]\ntarget = "x:y"\n'
    )
    return load(file)


class Search:
    """Worlds that all began in the same way."""

    def __init__(self, case: Case, config: Config, folder: Path, patch: pytest.MonkeyPatch) -> None:
        self.case, self._config, self._folder = case, config, folder
        self.world = World(folder, config)
        self.paths = 0
        #: Effects of the first supervisor's own boot.
        self._before: int | None = None
        install(lambda: self.world, patch)

    def begin(self, crash_at: int = 0) -> int:
        """A fresh world, and the first supervisor; it dies after an effect of the case (not of the boot before)."""
        if self._before is None:
            self.world = World(self._folder, self._config)
            self._before = self.world.live() if self.case.script else 0
        self.world = World(self._folder, self._config)
        self.world.trouble = self.case.trouble
        return self.world.live(self.case.script, crash_at=self._before + crash_at if crash_at else 0) - self._before

    def go_on(self, *story: object, crash_at: int = 0) -> int:
        """The next supervisor. If it lives, all must be well in the end."""
        self.world.trace.append("-- the next supervisor --")
        with explained(self.world, self.case.name, *story):
            effects = self.world.live(crash_at=crash_at)
            if not crash_at:
                self.paths += 1
                assert not (found := problems(self.world)), found
        return effects


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_without_a_crash(case: Case, config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    search = Search(case, config, tmp_path, monkeypatch)
    assert search.begin() > 3
    with explained(search.world, case.name):
        assert not (found := problems(search.world)), found


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_killed_after_each_effect(case: Case, config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It alone."""
    kill_after_each(Search(case, config, tmp_path, monkeypatch), most=0)


@pytest.mark.long
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_killed_together_with_generations(
    case: Case, config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Any of them."""
    kill_after_each(Search(case, config, tmp_path, monkeypatch), most=3)


def kill_after_each(search: Search, most: int) -> None:
    effects = search.begin()
    for crash in range(1, effects + 1):
        search.begin(crash)
        for victims in subsets(search.world.processes, most):
            search.begin(crash)
            for number in victims:
                search.world.kill(number)
            search.go_on("after effect", crash, "with", victims)
    assert search.paths >= effects


@pytest.mark.long
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_killed_and_its_successor_killed(
    case: Case, config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second one dies behind each of its effects, too."""
    search = Search(case, config, tmp_path, monkeypatch)
    for first in range(1, search.begin() + 1):
        search.begin(first)
        for second in range(1, search.go_on("after effect", first) + 1):
            search.begin(first)
            search.go_on("after effect", first, crash_at=second)
            search.go_on("after effects", first, second)
    assert search.paths
