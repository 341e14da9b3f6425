"""The control socket, spoken to with nothing but the standard library, as a script would."""

from __future__ import annotations

import http.client
import json
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from load.purity import Switch


class _Connection(http.client.HTTPConnection):
    def __init__(self, path: Path, timeout: float) -> None:
        super().__init__("localhost", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


class Control:
    """Requests to the supervisor."""

    def __init__(self, state_dir: Path) -> None:
        self.path = state_dir / "control" / "control.sock"

    def _open(self, method: str, path: str, body: Any, timeout: float) -> http.client.HTTPResponse:
        connection = _Connection(self.path, timeout)
        data = None if body is None else json.dumps(body).encode()
        connection.request(method, path, data, {"Content-Type": "application/json"})
        return connection.getresponse()

    def get(self, path: str) -> dict[str, Any]:
        """The answer to a GET; OSError when nobody listens."""
        with self._open("GET", path, None, 10.0) as response:
            found: dict[str, Any] = json.loads(response.read())
            assert response.status == 200, (path, response.status, found)
            return found

    def stream(self, path: str, body: dict[str, Any], timeout: float = 120.0) -> Iterator[dict[str, Any]]:
        """The events of a POST as they come; an error object when it is refused."""
        with self._open("POST", path, body, timeout) as response:
            while line := response.readline():
                yield json.loads(line)


class Handover:
    """A restart or rollback that runs in the background; remembers when each event arrived."""

    def __init__(self, control: Control, body: dict[str, Any] | None = None, path: str = "/v1/restart") -> None:
        self.events: list[tuple[float, dict[str, Any]]] = []
        self.asked = time.monotonic()
        self._news = threading.Condition()
        self._ended = False
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._read, args=(control, path, body or {}), daemon=True)
        self._thread.start()

    def _read(self, control: Control, path: str, body: dict[str, Any]) -> None:
        try:
            for event in control.stream(path, body):
                with self._news:
                    self.events.append((time.monotonic(), event))
                    self._news.notify_all()
        except (OSError, http.client.HTTPException, ValueError) as error:
            self._error = error
        with self._news:
            self._ended = True
            self._news.notify_all()

    def time_of(self, stage: str, state: str) -> float | None:
        """When the event of a stage arrived."""
        for moment, event in self.events:
            if event.get("stage") == stage and event.get("state") == state:
                return moment
        return None

    def wait_stage(self, stage: str, state: str = "done", limit: float = 60.0) -> float:
        """Wait for the event of a stage; its time."""
        with self._news:
            self._news.wait_for(lambda: self.time_of(stage, state) is not None or self._ended, limit)
        moment = self.time_of(stage, state)
        assert moment is not None, f"no event {stage} {state}: {self.story()}"
        return moment

    def result(self, limit: float = 90.0) -> dict[str, Any]:
        """Wait for the result."""
        with self._news:
            self._news.wait_for(lambda: self._ended, limit)
        last = self.events[-1][1] if self.events else {}
        assert last.get("event") == "result" or "error" in last, f"no result: {self.story()}"
        return last

    def switch(self) -> Switch:
        """What a handover that went well means for the responses."""
        result = self.result()
        assert result.get("outcome") == "done", self.story()
        gone = self.events[-1][0]
        return Switch(result["from"], result["generation"], self.asked, self.wait_stage("cut-over"), gone)

    def story(self) -> str:
        """All events, for a message."""
        lines = [f"{moment - self.asked:7.3f} {event}" for moment, event in self.events]
        return "\n".join([*lines, f"ended: {self._ended}, error: {self._error!r}"])
