"""The state machine of generations, and the diagram that is made from it."""

from __future__ import annotations

from pathlib import Path

import pytest

from instar.supervisor.transitions import (
    ALIVE,
    TRANSITIONS,
    Event,
    GenerationState,
    TransitionError,
    diagram,
    next_state,
)

PAGE = Path(__file__).parents[3] / "docs/generation-states.md"
ENDS = {GenerationState.STOPPED, GenerationState.FAILED}


def test_every_move_of_the_table_is_made() -> None:
    for (state, event), after in TRANSITIONS.items():
        assert next_state(state, event) is after


def test_every_other_move_is_refused() -> None:
    for state in GenerationState:
        for event in Event:
            if (state, event) not in TRANSITIONS:
                with pytest.raises(TransitionError, match=str(state)):
                    next_state(state, event)


def test_every_state_is_reached_and_every_living_one_can_end() -> None:
    reached, frontier = {GenerationState.BOOTING}, [GenerationState.BOOTING]
    while frontier:
        state = frontier.pop()
        for (before, _), after in TRANSITIONS.items():
            if before is state and after not in reached:
                reached.add(after)
                frontier.append(after)
    assert reached == set(GenerationState)
    for state in ALIVE:
        assert TRANSITIONS[state, Event.STOPPED] is GenerationState.STOPPED
    assert not any(before in ENDS for before, _ in TRANSITIONS)


def test_the_diagram_in_the_documentation_is_this_table() -> None:
    assert f"```mermaid\n{diagram()}\n```" in PAGE.read_text(), (
        "docs/generation-states.md differs from the table: run `python -m instar.supervisor.transitions > "
        "docs/generation-states.md`"
    )
