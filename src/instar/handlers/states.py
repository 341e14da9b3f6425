"""The states of a handler process and every move between them. `docs/handlers.md` shows this table."""

from __future__ import annotations

import enum


class HandlerState(enum.StrEnum):
    """Where a handler process stands."""

    #: It boots, or has booted and waits for its name.
    STANDBY = "standby"
    #: It holds its name.
    ACTIVE = "active"
    #: It was asked to leave, or has lost its name; an active one holds the name until it has ended.
    RELEASING = "releasing"
    #: The process has ended.
    GONE = "gone"


class HandlerEvent(enum.StrEnum):
    """What can happen to a handler process."""

    TAKEN = "lock and epoch taken"
    RELEASE = "asked to leave"
    LOST = "name lost (fenced)"
    ENDED = "process ended"


_S, _E = HandlerState, HandlerEvent

#: The whole state machine: (state, event) → next state. Anything else is a programming error.
TRANSITIONS: dict[tuple[HandlerState, HandlerEvent], HandlerState] = {
    (_S.STANDBY, _E.TAKEN): _S.ACTIVE,
    (_S.STANDBY, _E.RELEASE): _S.RELEASING,
    (_S.STANDBY, _E.ENDED): _S.GONE,
    (_S.ACTIVE, _E.RELEASE): _S.RELEASING,
    (_S.ACTIVE, _E.LOST): _S.RELEASING,
    (_S.ACTIVE, _E.ENDED): _S.GONE,
    (_S.RELEASING, _E.LOST): _S.RELEASING,
    (_S.RELEASING, _E.RELEASE): _S.RELEASING,
    (_S.RELEASING, _E.ENDED): _S.GONE,
}


class TransitionError(Exception):
    """A handler was asked for a move that its state does not have."""


def next_state(state: HandlerState, event: HandlerEvent) -> HandlerState:
    """The state after an event. Raises TransitionError when the table has no such move."""
    try:
        return TRANSITIONS[state, event]
    except KeyError:
        raise TransitionError(f"a {state} handler has no move for: {event}") from None


def diagram() -> str:
    """The table as a Mermaid state diagram."""
    lines = ["stateDiagram-v2", "    [*] --> standby"]
    lines += [f"    {before} --> {after}: {event}" for (before, event), after in TRANSITIONS.items() if before != after]
    return "\n".join([*lines, "    gone --> [*]"])
