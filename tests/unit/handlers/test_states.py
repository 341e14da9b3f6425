from __future__ import annotations

from pathlib import Path

import pytest

from instar.handlers.states import TRANSITIONS, HandlerEvent, HandlerState, TransitionError, diagram, next_state


def test_every_state_ends():
    for state in set(HandlerState) - {HandlerState.GONE}:
        assert next_state(state, HandlerEvent.ENDED) is HandlerState.GONE
    assert all(before is not HandlerState.GONE for before, _ in TRANSITIONS)


def test_who_was_asked_to_leave_never_becomes_active():
    with pytest.raises(TransitionError, match="a releasing handler has no move"):
        next_state(HandlerState.RELEASING, HandlerEvent.TAKEN)
    assert [before for (before, _), after in TRANSITIONS.items() if after is HandlerState.ACTIVE] == ["standby"]


def test_the_page_shows_the_table():
    assert diagram() in (Path(__file__).parents[3] / "docs/handlers.md").read_text()
