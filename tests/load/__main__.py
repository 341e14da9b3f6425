"""`python -m load SPEC.json`: run until a line or EOF arrives on standard input, then write the report."""

from __future__ import annotations

import asyncio
import json
import random
import sys
from pathlib import Path
from typing import Any

from load.base import Client, World
from load.http2 import Http2
from load.ledger import Ledger
from load.live import Events, WebSocket
from load.plain import (
    Busy,
    Gated,
    Idle,
    New,
    NewPage,
    Page,
    Pipelined,
    Preconnect,
    SlowHead,
    SlowUpload,
    Static,
    Streamed,
)
from load.target import Target

_ALL: tuple[type[Client], ...] = (
    New,
    Busy,
    Idle,
    Page,
    NewPage,
    Static,
    Pipelined,
    SlowHead,
    SlowUpload,
    Gated,
    Streamed,
    Preconnect,
    Events,
    WebSocket,
    Http2,
)
CLASSES = {kind.name: kind for kind in _ALL}


def build(spec: dict[str, Any], world: World) -> list[Client]:
    """The clients of a specification: `{"clients": {"label": {"kind": "busy", "count": 4, option: value}}}`."""
    clients = []
    for label, options in spec["clients"].items():
        kind = CLASSES[options.pop("kind", label)]
        clients += [kind(world, label, **options) for _ in range(options.pop("count", 1))]
    return clients


async def _wait_for_stop(stop: asyncio.Event) -> None:
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    await reader.readline()
    stop.set()


async def _announce(world: World, labels: set[str]) -> None:
    """Say so when every class has had its first good response: only then is a restart worth anything."""
    while not world.stop.is_set():
        if world.ledger.answered(labels):
            print(json.dumps({"event": "running"}), flush=True)
            return
        await world.pause(0.05)


async def run(spec: dict[str, Any]) -> Ledger:
    """Run the clients of a specification until told to stop."""
    stop = asyncio.Event()
    world = World(
        target=Target.from_json(spec["target"]),
        ledger=Ledger(),
        stop=stop,
        gates=Path(spec.get("gates", "/nonexistent")),
        keep_alive=spec.get("keep_alive", 30.0),
        rng=random.Random(spec.get("seed")),
    )
    clients = build(spec, world)
    async with asyncio.TaskGroup() as group:
        group.create_task(_wait_for_stop(stop))
        group.create_task(_announce(world, {client.label for client in clients}))
        for client in clients:
            group.create_task(client.run())
    return world.ledger


def main() -> None:
    """Entry point."""
    spec = json.loads(Path(sys.argv[1]).read_text())
    asyncio.run(run(spec)).write(Path(spec["report"]))
    print(json.dumps({"event": "done"}), flush=True)


if __name__ == "__main__":
    main()
