"""What `instar status` shows: the supervisor's state as one object. Keys are only ever added."""

from __future__ import annotations

import dataclasses
import time
from typing import TYPE_CHECKING, Any

from instar import __version__
from instar.runtime.scoreboard import Column

if TYPE_CHECKING:
    from instar.supervisor.generation import Generation
    from instar.supervisor.supervisor import Supervisor
    from instar.supervisor.views import WorkerView

#: Results in which the last upgrade is looked for.
_RECENT = 50


def status(supervisor: Supervisor) -> dict[str, Any]:
    """The whole answer."""
    config, live = supervisor.config, supervisor.registry.live
    generations = sorted(supervisor.registry.generations.values(), key=lambda item: item.number)
    return {
        "app": config.app.name,
        "version": __version__,
        "pid": supervisor.pid,
        "state": _state(supervisor),
        "uptime": round(time.time() - supervisor.started, 3),
        "config": str(config.source) if config.source else None,
        "generations": [_generation(item) for item in generations],
        "handlers": handlers(supervisor),
        "queues": [dataclasses.asdict(depth) for depth in supervisor.registry.queues.depths()],
        "web": {
            "binds": [
                {"bind": bind, "address": listener.address, "mode": str(listener.mode), "limits": listener.limits}
                for bind, listener in supervisor.registry.frontend.listeners.items()
            ],
            "engine": config.web.engine,
            "tls": bool(config.web.tls_cert),
            "workers": live.plan.workers if live else 0,
            "live_generation": live.number if live else None,
            "paused": bool(live and live.paused),
        },
        "services": supervisor.services.status(),
        "handover": _handover(supervisor),
        "upgrade": _upgrade(supervisor),
        "notes": _notes(supervisor),
    }


def _state(supervisor: Supervisor) -> str:
    if supervisor.stopping:
        return "stopping"
    if not supervisor.serving.is_set():
        return "starting"
    return "handover" if supervisor.operations.handover else "serving"


def _upgrade(supervisor: Supervisor) -> dict[str, Any]:
    """Whether instar itself is being replaced, and how that went the last time."""
    results = [entry for entry in supervisor.journal.history(_RECENT) if entry["kind"] == "upgrade"]
    keys = ("time", "outcome", "from_version", "to_version", "version", "error")
    last = {key: results[-1].get(key) for key in keys} if results else None
    return {"running": supervisor.operations.upgrading, "possible": supervisor.upgrade is not None, "last": last}


def _generation(generation: Generation) -> dict[str, Any]:
    return {
        "number": generation.number,
        "state": str(generation.state),
        "slot": generation.slot,
        "pid": generation.pid if generation.zygote_alive else None,
        "release": generation.plan.release,
        "since": round(generation.since, 3),
        "interface": generation.loaded.interface if generation.loaded else None,
        "lazy": generation.loaded.lazy if generation.loaded else None,
        "boot_seconds": round(generation.loaded.seconds, 3) if generation.loaded else None,
        "workers": [_worker(generation, item) for item in sorted(generation.workers.values(), key=lambda w: w.index)],
        "kept_until": generation.kept_until,
    }


def _worker(generation: Generation, worker: WorkerView) -> dict[str, Any]:
    def count(column: Column) -> int:
        return generation.board.get(worker.row, column)

    return {
        "index": worker.index + 1,
        "name": f"{generation.plan.config.app.name}.{generation.slot}.{worker.index + 1}",
        "pid": worker.pid,
        "state": "ready" if worker.ready else "starting",
        "requests": count(Column.REQUESTS),
        "errors": count(Column.ERRORS),
        "in_flight": count(Column.IN_FLIGHT),
        "connections": count(Column.CONNECTIONS),
        "long_lived": count(Column.LONG_LIVED),
        "memory": count(Column.MEMORY),
        "restarts": generation.restarts[worker.index],
    }


def handlers(supervisor: Supervisor) -> list[dict[str, Any]]:
    """A row for each name, and what its process is doing."""
    return [_handler(supervisor, name, owner) for name, owner in supervisor.registry.names.owner.items()]


def _handler(supervisor: Supervisor, name: str, owner: Generation) -> dict[str, Any]:
    spec = supervisor.registry.names.spec(name)
    views = [view for view in owner.handlers.values() if view.name == name]
    view = owner.holder(name) or next(iter(views), None)
    state, note = (view.state if view else "down"), ""
    if name in supervisor.registry.names.paused and not (view and view.epoch):
        state = "paused"
    live = supervisor.registry.live
    if live and owner.number < live.number and name in live.names:
        note = f"runs the code of generation {owner.number}: it has not released its name"
    if name in supervisor.registry.names.waiting and not (view and view.epoch):
        state, note = "waiting", "another supervisor holds the name"
    return {
        "name": name,
        "pool": spec.pool if spec else None,
        "index": spec.index if spec else None,
        "tags": list(spec.tags) if spec else [],
        "epoch": view.epoch if view else None,
        "pid": view.pid if view else None,
        "state": state,
        "generation": owner.number,
        "since": round(view.since, 3) if view else None,
        "restarts": owner.handler_restarts.get(name, 0),
        "note": note,
    }


def _handover(supervisor: Supervisor) -> dict[str, Any] | None:
    handover = supervisor.operations.handover
    if handover is None:
        return None
    return {
        "kind": handover.report.kind,
        "generation": handover.new.number if handover.new else None,
        "stage": handover.report.current,
        "to": handover.new.number if handover.new else None,
        "from": handover.old.number if handover.old else None,
        "stages": handover.report.stages,
        "seconds": round(time.monotonic() - handover.report.began, 3),
    }


def _notes(supervisor: Supervisor) -> list[str]:
    """What a person should know of this set-up."""
    notes = [
        f"{listener.address}: {listener.limits}"
        for listener in supervisor.registry.frontend.listeners.values()
        if listener.limits
    ]
    live = supervisor.registry.live
    notes += supervisor.registry.notes()
    if supervisor.journal.behind:
        notes.append("the journal can't be written: make room in the state directory, or its history may be lost")
    if live and live.paused:
        notes.append("new connections wait in the sockets: `instar workers resume` takes them again")
    if live and live.loaded:
        notes += live.loaded.notes
    if live and not live.zygote_alive and live.state == "serving":
        notes.append(f"the zygote of generation {live.number} died: its release is being booted again")
    if live and not live.plan.release_is_linked:
        notes.append(
            f"{live.plan.release} is not reached through a symbolic link: code that is edited in place "
            "can't be rolled back"
        )
    return notes
