"""Handlers and message queues as tables."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from instar.cli._format import count, escaped, seconds, size, styled, table

if TYPE_CHECKING:
    from rich.table import Table


def handler_table(handlers: list[dict[str, Any]]) -> Table:
    """`handlers` of GET /v1/status."""
    result = table("handler", "state", "generation", "pid", "epoch", "age", "restarts", right=("epoch", "restarts"))
    for item in handlers:
        note = item.get("note") or ""
        result.add_row(
            escaped(item["name"]),
            styled(item.get("state", "?")) + (f" ({escaped(note)})" if note else ""),
            count(item.get("generation")),
            count(item.get("pid")),
            count(item.get("epoch")),
            seconds(max(0.0, time.time() - item["since"])) if item.get("since") else "-",
            count(item.get("restarts")),
        )
    return result


def queue_table(queues: list[dict[str, Any]]) -> Table:
    """`queues` of GET /v1/status: kernel memory, of which a message takes more than its own length."""
    result = table("queue", "waiting", "room for", "full", right=("waiting", "room for", "full"))
    for item in queues:
        waiting, limit = item.get("bytes"), item.get("limit")
        share = f"{waiting / limit:.0%}" if limit and waiting is not None else "-"
        result.add_row(escaped(item["name"]), size(waiting), size(limit), share)
    return result
