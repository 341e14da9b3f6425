"""Every move of a job from one state to another. `docs/jobs.md` shows this table."""

from __future__ import annotations

from typing import Final

from instar.jobs.model import ENDED, LIVE, JobState

_S = JobState

#: Between single states.
_SINGLE: Final[dict[tuple[JobState, JobState], str]] = {
    (_S.NEW, _S.DISPATCHING): "taken",
    (_S.NEW, _S.RUNNING): "taken and called",
    (_S.NEW, _S.CANCELLED): "cancel",
    (_S.DISPATCHING, _S.QUEUED): "a cluster has it",
    (_S.DISPATCHING, _S.RUNNING): "it has begun",
    (_S.QUEUED, _S.RUNNING): "it has begun",
    (_S.HELD, _S.NEW): "retry",
    (_S.HELD, _S.CANCELLED): "cancel",
    (_S.ERROR, _S.NEW): "retry",
    (_S.CANCELLED, _S.NEW): "retry",
    (_S.LOST, _S.NEW): "retry",
}
#: From every live state: what happened may be known before that it has begun is written down.
_FROM_LIVE: Final[dict[JobState, str]] = {
    _S.OK: "ended well",
    _S.ERROR: "ended otherwise, or refused",
    _S.CANCELLED: "ended on request",
    _S.LOST: "nobody knows how it ended",
    _S.HELD: "the same, on_lost = hold",
    _S.NEW: "once more, never begun, or given back",
}
#: (state, next state) → why. Anything else does not happen.
MOVES: Final[dict[tuple[JobState, JobState], str]] = {
    **_SINGLE,
    **{(before, after): why for before in LIVE for after, why in _FROM_LIVE.items()},
}


def diagram() -> str:
    """The table as a Mermaid state diagram."""
    inner = [f"        {a} --> {b}: {why}" for (a, b), why in _SINGLE.items() if a in LIVE and b in LIVE]
    outer = [f"    {a} --> {b}: {why}" for (a, b), why in _SINGLE.items() if a not in LIVE]
    shared = [f"    live --> {after}: {why}" for after, why in _FROM_LIVE.items()]
    ends = [f"    {state} --> [*]" for state in JobState if state in ENDED]
    return "\n".join(
        ["stateDiagram-v2", "    [*] --> new: submit", "    state live {", *inner, "    }", *outer, *shared, *ends]
    )
