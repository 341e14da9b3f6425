"""Notes: a small application to watch a restart with. Change GREETING, run `instar restart`, look at the page."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import time
import urllib.parse
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import reports
from board import Board
from press import Press
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, RedirectResponse, Response, StreamingResponse
from starlette.routing import Route, WebSocketRoute
from starlette.templating import Jinja2Templates
from starlette.websockets import WebSocket, WebSocketDisconnect
from store import Store, prepare

import instar
from instar.errors import InstarError

GREETING = "Hello from the first release"

HERE = Path(__file__).parent
DATABASE = Path(os.environ.get("NOTES_DB", HERE / "notes.sqlite3"))
#: Largest form that is read, in bytes.
MAX_FORM = 16_384
#: Notes in a booklet.
PAGES = 40
templates = Jinja2Templates(HERE / "templates")

# At import, so once in a generation; the workers are forked afterwards.
prepare(DATABASE)


def whoami() -> dict[str, Any]:
    """Who answers: the generation and the worker's name, when instar runs us."""
    try:
        worker = instar.current_worker()
    except InstarError:
        return {"generation": 0, "worker": "not under instar", "pid": os.getpid(), "greeting": GREETING}
    return {"generation": worker.generation, "worker": worker.name, "pid": os.getpid(), "greeting": GREETING}


@contextlib.asynccontextmanager
async def lifespan(app: Starlette) -> AsyncIterator[None]:
    """Open the database in the worker: a connection must not cross the fork."""
    app.state.store = Store(DATABASE)
    app.state.press = Press()
    app.state.board = Board(app.state.store, app.state.press)
    watcher = asyncio.create_task(app.state.board.watch())
    yield
    watcher.cancel()
    app.state.store.close()


async def index(request: Request) -> Response:
    """The page; it works without JavaScript too."""
    context = {"who": whoami(), "greeting": GREETING, **request.app.state.board.state()}
    context["press"] = request.app.state.press.open
    return templates.TemplateResponse(request, "index.html", context)


async def add(request: Request) -> Response:
    """The form."""
    body = bytearray()
    async for part in request.stream():
        body += part
        if len(body) > MAX_FORM:
            return PlainTextResponse("too long\n", status_code=413)
    fields = urllib.parse.parse_qs(body.decode(errors="replace"))
    text = fields.get("text", [""])[0].strip()[:280]
    if text:
        number = request.app.state.store.add(text, int(whoami()["generation"]))
        with contextlib.suppress(instar.QueueError):  # no handlers, or too much for them: there is no report, then
            instar.send("reports", str(number).encode())
    return RedirectResponse("/", status_code=303)


async def order(request: Request) -> Response:
    """Twenty reports on notes that are there already; how many the queue has taken."""
    notes = request.app.state.store.newest()
    taken = 0
    with contextlib.suppress(instar.QueueError):
        for note in random.choices(notes, k=20) if notes else []:  # noqa: S311 - no secret
            instar.send("reports", str(note["id"]).encode())
            taken += 1
    return JSONResponse({"taken": taken})


async def booklet(request: Request) -> Response:
    """A job: a booklet of the notes. It is stored when this is answered, and runs once."""
    press: Press = request.app.state.press
    if not press.open:
        return PlainTextResponse("there is no [jobs] here\n", status_code=503)
    return JSONResponse({"job": await press.order(DATABASE, PAGES)})


async def who(request: Request) -> Response:
    """Asked by the page several times a second: the counter of lost requests."""
    return JSONResponse(whoami(), headers={"cache-control": "no-store"})


async def slow(request: Request) -> Response:
    """Takes its time; a restart meanwhile does not cut it off."""
    started = time.monotonic()
    await asyncio.sleep(min(float(request.query_params.get("seconds", "5")), 30.0))
    return JSONResponse({**whoami(), "seconds": round(time.monotonic() - started, 2)})


async def events(request: Request) -> Response:
    """A clock as server-sent events. At a restart the stream ends, and the browser connects again by itself."""

    async def ticks() -> AsyncIterator[str]:
        yield "retry: 300\n\n"
        while True:
            yield f"data: {json.dumps({**whoami(), 'time': time.time()})}\n\n"
            await asyncio.sleep(0.5)

    return StreamingResponse(ticks(), media_type="text/event-stream", headers={"cache-control": "no-store"})


async def live(websocket: WebSocket) -> None:
    """Notes, reports and handlers, sent again whenever a worker or a handler changes something."""
    await websocket.accept()
    board: Board = websocket.app.state.board
    # The page sends nothing: this ends when it goes away, or when instar ends the connection at a restart.
    gone = asyncio.create_task(websocket.receive())
    with contextlib.suppress(WebSocketDisconnect):
        async with board.subscription() as changes:
            while not gone.done():
                await websocket.send_json({"who": whoami(), **board.state()})
                changed = asyncio.create_task(changes.wait())
                await asyncio.wait([gone, changed], return_when=asyncio.FIRST_COMPLETED)
                changed.cancel()
                changes.clear()
    gone.cancel()


def handler() -> None:
    """What `[handlers.reports]` runs: in a process of its own, forked after this module was loaded."""
    reports.work(DATABASE)


async def health(request: Request) -> Response:
    """What instar asks before it sends any client to a new generation."""
    request.app.state.store.check()
    return PlainTextResponse("ok\n")


app = Starlette(
    lifespan=lifespan,
    routes=[
        Route("/", index),
        Route("/notes", add, methods=["POST"]),
        Route("/reports", order, methods=["POST"]),
        Route("/booklets", booklet, methods=["POST"]),
        Route("/whoami", who),
        Route("/slow", slow),
        Route("/events", events),
        Route("/healthz", health),
        WebSocketRoute("/live", live),
    ],
)
