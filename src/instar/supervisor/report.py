"""What a handover tells those who watch it: stages as they happen, and one result at the end."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from typing import Any

from instar.supervisor.logstore import LogStore


class Report:
    """Events of one operation, for any number of watchers, who may come late."""

    def __init__(self, kind: str, log: LogStore, parts: Sequence[str] = ()) -> None:
        """`parts`: what is renewed, `web` and `handlers`."""
        self.kind = kind
        self.parts = list(parts)
        self.began = time.monotonic()
        #: Number of the journal's entry that began it, for handovers.
        self.op: int | None = None
        #: {"stage", "state", "seconds"} of the stages that have ended.
        self.stages: list[dict[str, Any]] = []
        self.result: dict[str, Any] | None = None
        #: The stage that began last.
        self.current: str | None = None
        self._log = log
        self._events: list[dict[str, Any]] = []
        self._queues: set[asyncio.Queue[dict[str, Any]]] = set()

    @contextlib.contextmanager
    def stage(self, name: str) -> Iterator[Stage]:
        """Times a stage; an exception marks it failed and goes on."""
        stage = Stage(self, name)
        self.current = name
        self._emit({"event": "stage", "stage": name, "state": "started", "seconds": 0.0})
        try:
            yield stage
        except BaseException as error:
            stage.end("failed", str(error))
            raise
        stage.end("done", stage.detail)

    def explain(self, text: str) -> None:
        """More on an error, for the log only."""
        for line in text.splitlines():
            self._log.write(line)

    def skip(self, name: str, detail: str) -> None:
        """A stage that was not needed."""
        self._emit({"event": "stage", "stage": name, "state": "skipped", "seconds": 0.0, "detail": detail})

    def ended(self, name: str, state: str, seconds: float, detail: str) -> None:
        """Called by `Stage`."""
        self.stages.append({"stage": name, "state": state, "seconds": round(seconds, 4)})
        event = {"event": "stage", "stage": name, "state": state, "seconds": round(seconds, 4), "detail": detail}
        self._emit(event)
        self._log.write(f"{self.kind}: {name} {state} in {seconds:.3f} s" + (f": {detail}" if detail else ""))

    def progress(self, name: str, seconds: float, detail: str) -> None:
        """Called by `Stage`."""
        event = {"event": "stage", "stage": name, "state": "progress", "seconds": round(seconds, 4), "detail": detail}
        self._emit(event)

    def relay(self, event: dict[str, Any]) -> None:
        """A stage of somebody else, as its own report told it."""
        if event.get("state") in ("done", "failed"):
            self.stages.append({key: event[key] for key in ("stage", "state", "seconds")})
        self._emit(event)

    def finish(
        self,
        outcome: str,
        numbers: Mapping[str, Any],
        error: str | None,
        tail: list[str],
        kept: Sequence[str] = (),
    ) -> dict[str, Any]:
        """The last event. `numbers`: the generations concerned, or whatever else; `kept`: names that did not move."""
        self.result = {
            "event": "result",
            "outcome": outcome,
            **numbers,
            "parts": self.parts,
            "stages": self.stages,
            "error": error,
            "kept": list(kept),
            "log_tail": tail,
            "seconds": round(time.monotonic() - self.began, 4),
        }
        self._emit(self.result)
        return self.result

    def end(self, result: Mapping[str, Any], tail: Sequence[str]) -> None:
        """The last event, made elsewhere."""
        self.result = {"event": "result", **result, "log_tail": list(tail)}
        self._emit(self.result)

    def leave(self, **more: Any) -> None:
        """The last event of this process: it becomes another version, which writes the result down."""
        self._emit({"event": "exec", **more})

    async def heard(self, limit: float) -> None:
        """Wait until nobody watches any more, at most so many seconds."""
        end = time.monotonic() + limit
        while self._queues and time.monotonic() < end:
            await asyncio.sleep(0.01)

    async def watch(self) -> AsyncIterator[dict[str, Any]]:
        """All events, from the first to the result."""
        queue: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        for event in self._events:
            queue.put_nowait(event)
        self._queues.add(queue)
        try:
            while True:
                event = await queue.get()
                yield event
                if event["event"] in ("result", "exec"):
                    return
        finally:
            self._queues.discard(queue)

    async def wait(self) -> dict[str, Any]:
        """The result."""
        async for event in self.watch():
            if event["event"] == "result":
                return event
        raise AssertionError("a report ends with its result")

    def _emit(self, event: dict[str, Any]) -> None:
        # Progress is for those who watch now; a late watcher needs only what has ended.
        if event.get("state") != "progress":
            self._events.append(event)
        for queue in self._queues:
            queue.put_nowait(event)


class Stage:
    """A stage under way."""

    def __init__(self, report: Report, name: str) -> None:
        self.detail = ""
        self._report = report
        self._name = name
        self._began = time.monotonic()

    @property
    def seconds(self) -> float:
        """How long it has taken so far."""
        return time.monotonic() - self._began

    def progress(self, detail: str) -> None:
        """Say how far it is."""
        self._report.progress(self._name, self.seconds, detail)

    def end(self, state: str, detail: str) -> None:
        """It is over."""
        self._report.ended(self._name, state, self.seconds, detail)
