"""Handlers that write down what they do, and a web application that sends them messages.

Each appends lines to one ledger with single O_APPEND writes, so the order of the lines is the order of events in all
processes. Environment: `TEST_LEDGER` (the ledger), `TEST_STORE` (a SQLite database that the holders write to through
`fence`). A file `trouble` in the release says how its handlers misbehave: `{"kind": "boot", "pool": "warm"}`.

- `boot`: ends while it boots; `takeover`: ends right after it has got its name; `never`: never calls wait_active
- `stubborn`: hears neither the request to leave nor SIGTERM, and has a child that doesn't either
- `busy`: finishes its work first: leaves only when the file `finish` is there
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
import urllib.parse
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import instar

#: Seconds between two beats of a holder.
BEAT = 0.01


class Pen:
    """Writes the lines of one holder."""

    def __init__(self, name: str, epoch: int) -> None:
        self._name, self._epoch = name, epoch
        self._fd = os.open(os.environ["TEST_LEDGER"], os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)

    def write(self, what: str) -> None:
        """One line in one write."""
        os.write(self._fd, f"{time.monotonic():.6f} {self._name} {self._epoch} {os.getpid()} {what}\n".encode())


class Protected:
    """The database: every row has passed the fence."""

    def __init__(self, handler: Any) -> None:
        self._handler = handler
        self._connection = sqlite3.connect(os.environ["TEST_STORE"], timeout=20)
        self._connection.execute("PRAGMA synchronous = OFF")

    def write(self) -> None:
        """A row of ours. Raises Fenced."""
        with self._connection:
            epoch = self._handler.fence(self._connection)
            values = (self._handler.name, epoch, os.getpid())
            self._connection.execute("INSERT INTO written (name, epoch, pid) VALUES (?, ?, ?)", values)


class Holder:
    """What a warm handler does under its name."""

    def __init__(self, handler: Any) -> None:
        self._handler = handler
        self._store = Protected(handler)
        self._pen: Pen | None = None

    def enter(self) -> None:
        """After the first fence: if the state directory was lost, only then the epoch is right."""
        self._store.write()
        self._pen = Pen(self._handler.name, self._handler.epoch)
        self._pen.write("enter")

    def beat(self) -> None:
        """Do some work."""
        self._write("beat")

    def leave(self) -> None:
        """The last work: whoever has lost the name meanwhile must not get through."""
        self._write("exit")

    def _write(self, what: str) -> None:
        assert self._pen is not None
        try:
            self._store.write()
        except instar.Fenced:
            self._pen.write("fenced")
            raise
        self._pen.write(what)


def trouble(handler: Any) -> str:
    """How this handler is to misbehave."""
    try:
        raw = json.loads(Path("trouble").read_text())
    except FileNotFoundError:
        return ""
    return str(raw["kind"]) if raw.get("pool", handler.pool) == handler.pool else ""


def _boot(kind: str) -> None:
    if kind == "boot":
        raise RuntimeError("deliberate failure of a handler's boot")
    if kind == "never":
        time.sleep(3600)
    if kind == "stubborn":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)


def threaded() -> None:
    """A warm handler with a blocking loop."""
    handler = instar.current_handler()
    kind = trouble(handler)
    _boot(kind)
    if not handler.wait_active():
        return
    holder = Holder(handler)
    holder.enter()
    if kind == "takeover":
        os._exit(7)
    if kind == "stubborn":
        _stay()
    while not handler.releasing.wait(BEAT) or (kind == "busy" and not Path("finish").exists()):
        holder.beat()
        if handler.releasing:
            time.sleep(BEAT)
    holder.leave()


def _stay() -> None:
    child = subprocess.Popen(
        [sys.executable, "-c", "import signal, time; signal.signal(15, signal.SIG_IGN); time.sleep(3600)"]
    )
    Path("stubborn").write_text(f"{os.getpid()} {child.pid}")
    time.sleep(3600)


async def looped() -> None:
    """A warm handler with an event loop."""
    handler = instar.current_handler()
    kind = trouble(handler)
    _boot(kind)
    if not await handler.wait_active_async():
        return
    holder = Holder(handler)
    holder.enter()
    if kind == "takeover":
        os._exit(7)
    while not await handler.releasing.wait_async(BEAT):
        holder.beat()
    holder.leave()


def described() -> None:
    """A warm handler that writes its identity into `TEST_IDENTITY/NAME` and waits."""
    handler = instar.current_handler()
    if not handler.wait_active():
        return
    variables = {key: value for key, value in os.environ.items() if key.startswith(("INSTAR_", "COLOUR"))}
    found = {
        "name": handler.name, "pool": handler.pool, "index": handler.index, "tags": list(handler.tags),
        "generation": handler.generation, "epoch": handler.epoch, "env": variables,
    }  # fmt: skip
    _publish(handler.name, found)
    handler.releasing.wait()


def _publish(name: str, found: dict[str, Any]) -> None:
    path = Path(os.environ["TEST_IDENTITY"]) / name
    path.with_name(f".{name}").write_text(json.dumps(found))
    path.with_name(f".{name}").rename(path)


def crashing() -> None:
    """Ends at once each time it has its name."""
    handler = instar.current_handler()
    if not handler.wait_active():
        return
    Pen(handler.name, handler.epoch).write("enter")
    os._exit(3)


# --- messages ---------------------------------------------------------------------------------------------


def receiving() -> None:
    """Writes down each message; the one that begins with `hold` it keeps in its hands for ever."""
    handler = instar.current_handler()
    if not handler.wait_active():
        return
    pen = Pen(handler.name, handler.epoch)
    pen.write("enter")
    while not handler.releasing:
        message = handler.receive(1.0)
        if message is None:
            continue
        if message.startswith(b"hold"):
            pen.write(f"holding:{message.decode()}")
            time.sleep(3600)
        pen.write(f"got:{message.decode()}")
    pen.write("exit")


def sending() -> None:
    """Sends numbered messages to the pool and its names, and writes down what became of each."""
    handler = instar.current_handler()
    if not handler.wait_active():
        return
    pen = Pen(handler.name, handler.epoch)
    pen.write("enter")
    targets = os.environ["TEST_TARGETS"].split()
    number = 0
    while not handler.releasing.wait(0.001):
        if Path(os.environ["TEST_QUIET"]).exists():
            continue
        number += 1
        identity = f"{handler.name}-{handler.epoch}-{number}"
        pen.write(f"{_send(targets[number % len(targets)], identity)}:{identity}")


def _send(to: str, identity: str) -> str:
    try:
        instar.send(to, identity.encode())
    except instar.QueueFullError:
        return "refused"
    return "taken"


# --- the web application ----------------------------------------------------------------------------------

Scope = dict[str, Any]
Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    """`/send?to=&first=&count=`: what became of each message; `/hold?to=` sends the one that is kept; `/gate?file=`
    waits for a file; all else: who answers."""
    if scope["type"] != "http":
        await _lifespan(receive, send)
        return
    query = dict(urllib.parse.parse_qsl(scope["query_string"].decode()))
    body: dict[str, Any] = {"generation": instar.current_worker().generation, "pid": os.getpid()}
    if scope["path"] == "/send":
        first = int(query["first"])
        for number in range(first, first + int(query["count"])):
            body.setdefault(_send(query["to"], f"web-{number}"), []).append(f"web-{number}")
    elif scope["path"] == "/hold":
        body[_send(query["to"], "hold-1")] = ["hold-1"]
    elif scope["path"] == "/gate":
        while not Path(query["file"]).exists():
            await asyncio.sleep(0.02)
    raw = json.dumps(body).encode()
    fields = [(b"content-type", b"application/json"), (b"content-length", str(len(raw)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": fields})
    await send({"type": "http.response.body", "body": raw})


async def _lifespan(receive: Receive, send: Send) -> None:
    for _ in range(2):
        event = (await receive())["type"]
        await send({"type": f"{event}.complete"})
