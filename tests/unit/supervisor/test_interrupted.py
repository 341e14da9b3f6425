"""The rules for a restart in which the supervisor was killed."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest

from instar.supervisor.interrupted import RULES, Decision, Rule, Stage, decide, page, read_story

PAGE = Path(__file__).parents[3] / "docs/adoption-rules.md"

BOOT_1 = (
    {"op": "start"},
    {"op": "begin", "kind": "boot", "old": None},
    {"op": "boot", "generation": 1},
    {"op": "switch", "generation": 1},
    {"op": "lineage", "generation": 1, "generations": [1]},
    {"op": "settled", "generation": 1},
    {"op": "result", "began": 2, "generation": 1, "outcome": "done"},
)
BEGIN = {"op": "begin", "kind": "restart", "old": 1}
BOOT = {"op": "boot", "generation": 2}
CANARY = {"op": "canary", "generation": 2}
GIVE_UP = {"op": "give-up", "generation": 2, "error": "bad"}
SWITCH = {"op": "switch", "generation": 2, "previous": 1}
LINEAGE = {"op": "lineage", "generation": 2, "generations": [1, 2]}
NAMES = {"op": "names", "generation": 2, "names": ["a.b.1"]}
AFTER = {"op": "after", "generation": 2}
SETTLED = {"op": "settled", "generation": 2}
ROLLBACK = {"op": "rollback", "generation": 1, "previous": 2, "error": "bad"}
RESULT = {"op": "result", "began": 8, "generation": 2, "outcome": "done"}


def decided(*entries: dict[str, Any], living: set[int]) -> Decision:
    """What becomes of a journal."""
    numbered = [{"seq": number, "time": 100.0 + number, **entry} for number, entry in enumerate(entries, 1)]
    return decide(read_story(numbered), living)


def test_there_is_a_rule_for_every_case() -> None:
    cases = set(itertools.product(Stage, (True, False), (True, False)))
    # Before a boot there is no new generation.
    cases -= {(Stage.BEGUN, True, True), (Stage.BEGUN, True, False)}
    assert set(RULES) == cases


def test_nobody_is_gone_to_who_is_dead() -> None:
    for (_, new, old), rule in RULES.items():
        assert rule is not Rule.FORWARD or new
        assert rule is not Rule.BACK or old


def test_the_page_in_the_documentation_is_this_table() -> None:
    assert PAGE.read_text() == page(), (
        "docs/adoption-rules.md differs from the table: run `python -m instar.supervisor.interrupted > "
        "docs/adoption-rules.md`"
    )


@pytest.mark.parametrize(
    ("entries", "stage", "both", "old_only", "new_only"),
    [
        ([BEGIN], Stage.BEGUN, 1, 1, None),
        ([BEGIN, BOOT], Stage.BOOT, 1, 1, None),
        ([BEGIN, BOOT, CANARY], Stage.CANARY, 1, 1, 2),
        ([BEGIN, BOOT, GIVE_UP], Stage.GIVE_UP, 1, 1, None),
        ([BEGIN, BOOT, CANARY, GIVE_UP], Stage.GIVE_UP, 1, 1, None),
        ([BEGIN, BOOT, SWITCH], Stage.SWITCH, 2, 1, 2),
        ([BEGIN, BOOT, SWITCH, LINEAGE, NAMES], Stage.SWITCH, 2, 1, 2),
        ([BEGIN, BOOT, SWITCH, LINEAGE, NAMES, AFTER], Stage.SWITCH, 2, 1, 2),
        ([BEGIN, BOOT, SWITCH, LINEAGE, ROLLBACK], Stage.ROLLBACK, 1, 1, 2),
        ([BEGIN, BOOT, SWITCH, LINEAGE, SETTLED], Stage.DRAIN, 2, 1, 2),
    ],
)
def test_every_stage(
    entries: list[dict[str, Any]], stage: Stage, both: int | None, old_only: int | None, new_only: int | None
) -> None:
    for living, live in (({1, 2}, both), ({1}, old_only), ({2}, new_only), (set(), None)):
        decision = decided(*BOOT_1, *entries, living=living)
        assert decision.live == live, (living, decision)
        [(operation, rule)] = decision.operations
        assert operation.stage is stage and operation.seq == 8
        assert rule is {1: Rule.BACK, 2: Rule.FORWARD, None: Rule.CLEAN}[live]


def test_after_the_result_there_is_nothing_to_do() -> None:
    decision = decided(*BOOT_1, BEGIN, BOOT, SWITCH, LINEAGE, SETTLED, RESULT, living={2})
    assert (decision.live, decision.operations) == (2, ())


def test_a_restart_behind_one_that_drains() -> None:
    entries = (*BOOT_1, BEGIN, BOOT, SWITCH, LINEAGE, SETTLED, {"op": "begin", "kind": "restart", "old": 2})
    decision = decided(*entries, living={1, 2})
    assert decision.live == 2
    assert [(item.stage, rule) for item, rule in decision.operations] == [
        (Stage.DRAIN, Rule.FORWARD),
        (Stage.BEGUN, Rule.BACK),
    ]


def test_handlers_only() -> None:
    begin = {**BEGIN, "web": False}
    commit = {"op": "commit", "generation": 2}
    for living, rule in (({1, 2}, Rule.FORWARD), ({1}, Rule.BACK)):
        decision = decided(*BOOT_1, begin, BOOT, commit, living=living)
        assert decision.live == 1
        assert [item for _, item in decision.operations] == [rule]
    assert decided(*BOOT_1, begin, BOOT, commit, living={2}).live is None


def test_paused_names_outlive_a_stop_in_order() -> None:
    pause = {"op": "pause", "name": "a.b.1"}
    story = read_story(
        [{"seq": number, "time": 1.0, **entry} for number, entry in enumerate([*BOOT_1, pause, {"op": "stop"}])]
    )
    assert story.stopped and story.paused == {"a.b.1"} and story.live is None


def test_entries_of_another_release_say_nothing() -> None:
    decision = decided(*BOOT_1, {"op": "of the future", "generation": 9}, living={1})
    assert (decision.live, decision.operations) == (1, ())
