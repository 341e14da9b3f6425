"""The states of a generation and every move between them. `docs/generation-states.md` is made from this table."""

from __future__ import annotations

import enum


class GenerationState(enum.StrEnum):
    """Where a generation stands."""

    #: Its zygote is loading the application, or its workers are starting.
    BOOTING = "booting"
    #: Every worker can answer; no client has been sent yet (apart from a canary).
    READY = "ready"
    #: New connections go here.
    SERVING = "serving"
    #: New connections go elsewhere; the old ones are being finished.
    DRAINING = "draining"
    #: Without clients, but warm: a rollback only has to steer back.
    KEPT = "kept"
    #: Its processes have ended.
    STOPPED = "stopped"
    #: It never served, or its processes were ended because it broke.
    FAILED = "failed"


class Event(enum.StrEnum):
    """What can happen to a generation."""

    WORKERS_READY = "every worker ready"
    BOOT_FAILED = "boot, probe or canary failed"
    CUT_OVER = "cut-over"
    SUPERSEDED = "a newer generation serves"
    ROLLED_BACK_TO = "rollback to it"
    BROKE = "broke within the grace period"
    QUIET_KEEP = "no client left, keep-old"
    QUIET = "no client left, or drain timeout"
    STOPPED = "stop"


_S, _E = GenerationState, Event

#: The whole state machine: (state, event) → next state. Anything else is a programming error.
TRANSITIONS: dict[tuple[GenerationState, Event], GenerationState] = {
    (_S.BOOTING, _E.WORKERS_READY): _S.READY,
    (_S.BOOTING, _E.BOOT_FAILED): _S.FAILED,
    (_S.BOOTING, _E.STOPPED): _S.STOPPED,
    (_S.READY, _E.CUT_OVER): _S.SERVING,
    (_S.READY, _E.BOOT_FAILED): _S.FAILED,
    (_S.READY, _E.STOPPED): _S.STOPPED,
    (_S.SERVING, _E.SUPERSEDED): _S.DRAINING,
    (_S.SERVING, _E.BROKE): _S.FAILED,
    (_S.SERVING, _E.STOPPED): _S.STOPPED,
    (_S.DRAINING, _E.ROLLED_BACK_TO): _S.SERVING,
    (_S.DRAINING, _E.QUIET_KEEP): _S.KEPT,
    (_S.DRAINING, _E.QUIET): _S.STOPPED,
    (_S.DRAINING, _E.STOPPED): _S.STOPPED,
    (_S.KEPT, _E.ROLLED_BACK_TO): _S.SERVING,
    (_S.KEPT, _E.STOPPED): _S.STOPPED,
}

#: States in which processes of the generation may live.
ALIVE = frozenset({_S.BOOTING, _S.READY, _S.SERVING, _S.DRAINING, _S.KEPT})


class TransitionError(Exception):
    """A generation was asked for a move that its state does not have."""


def next_state(state: GenerationState, event: Event) -> GenerationState:
    """The state after an event. Raises TransitionError when the table has no such move."""
    try:
        return TRANSITIONS[state, event]
    except KeyError:
        raise TransitionError(f"a {state} generation has no move for: {event}") from None


def diagram() -> str:
    """The table as a Mermaid state diagram."""
    lines = ["stateDiagram-v2", "    [*] --> booting"]
    lines += [f"    {before} --> {after}: {event}" for (before, event), after in TRANSITIONS.items()]
    lines += ["    stopped --> [*]", "    failed --> [*]"]
    return "\n".join(lines)


def page() -> str:
    """The page of the documentation."""
    return f"""# Generation states

Made from the table in `src/instar/supervisor/transitions.py`; a test compares the two.

```mermaid
{diagram()}
```
"""


if __name__ == "__main__":
    print(page(), end="")
