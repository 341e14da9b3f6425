"""The result of an upgrade, written by whichever version runs in the end, as an entry of the history."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from instar import __version__
from instar.supervisor.journal import Journal
from instar.supervisor.upgrade.inheritance import Inheritance

KIND = "upgrade"


def result(
    outcome: str,
    error: str | None,
    *,
    from_version: str,
    version: str,
    live: int | None,
    stages: list[dict[str, Any]],
    seconds: float,
) -> dict[str, Any]:
    """As that of a handover, with `from_version`, `to_version` (the new one; empty: unknown) and `version` (runs)."""
    return {
        "outcome": outcome,
        "generation": live,
        "from": None,
        "serving": live,
        "parts": [],
        "from_version": from_version,
        "to_version": version,
        "version": __version__,
        "stages": stages,
        "error": error,
        "kept": [],
        "seconds": round(seconds, 4),
    }


def inherited(heir: Inheritance, live: int | None, now: float) -> dict[str, Any]:
    """The result that we, as the version that came out of it, write. `now`: on CLOCK_MONOTONIC."""
    begun = heir.began + sum(float(stage["seconds"]) for stage in heir.stages)
    state = "failed" if heir.gave_way else "done"
    last = {"stage": "start", "state": state, "seconds": round(max(0.0, now - begun), 4)}
    error = f"instar {heir.version} {heir.gave_way}" if heir.gave_way else None
    return result(
        "rolled-back" if heir.gave_way else "done",
        error,
        from_version=heir.from_version,
        version=heir.version,
        live=live,
        stages=[*heir.stages, last],
        seconds=now - heir.began,
    )


def write_lost(journal: Journal, entries: Iterable[Mapping[str, Any]], *, besides: int | None) -> None:
    """End an upgrade in which the supervisor was killed, and nobody went back: whoever starts next writes it down.

    `besides`: the upgrade that we come from.
    """
    begun: Mapping[str, Any] | None = None
    for entry in entries:
        if entry["op"] == KIND and entry["seq"] != besides:
            begun = entry
        elif begun and entry["op"] == "result" and entry.get("began") == begun["seq"]:
            begun = None
    if begun:
        error = f"the supervisor was killed; instar {__version__} was started after it"
        before = str(begun.get("version", ""))
        found = result("failed", error, from_version=before, version="", live=None, stages=[], seconds=0.0)
        journal.record("result", kind=KIND, began=begun["seq"], **found)
