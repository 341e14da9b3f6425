"""What an Emperor says about itself and its vassals. Keys are only ever added."""

from __future__ import annotations

from typing import Any

from instar import __version__
from instar.uwsgi.emperor import supervised
from instar.uwsgi.emperor.emperor import Emperor
from instar.uwsgi.emperor.vassal import Vassal


def emperor_status(emperor: Emperor) -> dict[str, Any]:
    """The answer of GET /v1/status."""
    return {
        "emperor": str(emperor.settings.directory),
        "version": __version__,
        "state": "stopping" if emperor.stopping else "running",
        "pid": emperor.pid,
        "uptime": round(emperor.uptime, 3),
        "wrapper": emperor.settings.wrapper,
        "vassals": [summary(vassal, emperor.now) for vassal in emperor.vassals.values()],
    }


async def vassal_status(vassal: Vassal, now: float, *, deep: bool = False) -> dict[str, Any]:
    """One vassal; `deep`: with what its own supervisor says, as `supervisor`."""
    answer = summary(vassal, now)
    if deep and vassal.process is not None and vassal.process.alive:
        answer["supervisor"] = await supervised.status(vassal.file, vassal.process)
    return answer


def summary(vassal: Vassal, now: float) -> dict[str, Any]:
    """One vassal as the Emperor sees it. `now`: monotonic."""
    process = vassal.process if vassal.running else None
    state = supervised.state_of(vassal.file, vassal.process)
    return {
        "name": vassal.name,
        "kind": vassal.file.kind,
        "state": vassal.state,
        "pid": process.pid if process else None,
        "restarter": vassal.standin.pid if vassal.standin and vassal.standin.alive else None,
        "since": process.began if process else None,
        "note": vassal.note or (process.words if process else ""),
        "restarts": vassal.restarts,
        "ready": vassal.ready,
        "accepting": bool(process and process.accepting),
        "loyal": bool(process and process.loyal),
        "throttled_for": round(vassal.throttle.remaining(now), 3),
        "failures": vassal.throttle.attempts,
        "pools": [str(path) for path in vassal.file.pools],
        "zerg": [str(path) for path in vassal.file.zerg],
        "stored": len(vassal.stored),
        "state_dir": str(state) if state else None,
    }
