"""Named handlers of a running instance, seen from outside."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

from harness.instance import Instance
from harness.processes import alive
from harness.project import TESTS, Project
from harness.waiting import wait_for

SCRIPT = str(TESTS / "apps" / "cold_script.py")
Row = dict[str, Any]


def pool(project: Project, pool: str, **settings: Any) -> None:
    """Add (or change) a pool; limits are short unless they are said."""
    table = {"stop_timeout": 5.0, "kill_timeout": 1.0, "backoff": 0.1, "backoff_limit": 0.4}
    project.config[f"handlers.{pool}"] = {**table, **settings}


def light_web(project: Project) -> None:
    """One web worker of the application that has the handlers."""
    project.config["app"]["target"] = "apps.named:app"
    project.config["web"]["workers"] = 1
    project.config["web"].pop("static", None)


def rows(instance: Instance) -> dict[str, Row]:
    """The handlers by name."""
    return {row["name"]: row for row in instance.status()["handlers"]}


def row(instance: Instance, name: str) -> Row:
    """One handler."""
    return rows(instance)[name]


def all_active(instance: Instance, names: Collection[str], limit: float = 20.0) -> dict[str, Row]:
    """Wait until exactly these names have holders that live; their rows."""
    found: dict[str, Row] = {}

    def check() -> bool:
        nonlocal found
        found = rows(instance)
        return set(found) == set(names) and all(
            item["state"] == "active" and item["epoch"] and alive(item["pid"]) for item in found.values()
        )

    try:
        wait_for(f"{sorted(names)} active", check, limit, 0.02)
    except AssertionError as error:
        states = {name: (item["state"], item["pid"], item["epoch"]) for name, item in found.items()}
        raise AssertionError(f"{error}; {states}") from None
    return found


def act(instance: Instance, name: str, action: str, limit: float = 60.0) -> dict[str, Any]:
    """Restart, move, pause or resume one handler; the result."""
    return instance.handover({}, f"/v1/handlers/{name}/{action}").result(limit)


def restart(instance: Instance, *parts: str, pools: Collection[str] = (), limit: float = 90.0) -> dict[str, Any]:
    """Restart, all or parts of it; the result."""
    body: dict[str, Any] = {"parts": list(parts)} if parts else {}
    if pools:
        body["pools"] = list(pools)
    return instance.handover(body).result(limit)


def misbehave(project: Project, kind: str, **options: Any) -> Path:
    """A release whose handlers misbehave."""
    import json

    release = project.deploy(kind)
    (release / "trouble").write_text(json.dumps({"kind": kind, **options}))
    return release
