"""A real Chromium without a window, driven through the DevTools protocol."""

from __future__ import annotations

import contextlib
import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

from websockets.sync.client import ClientConnection, connect

from harness.waiting import wait_for

#: Debian's name first.
PROGRAM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


class Page:
    """One tab."""

    def __init__(self, connection: ClientConnection) -> None:
        self._connection = connection
        self._number = 0

    def do(self, expression: str) -> Any:
        """The value of an expression of JavaScript in the page; a promise is awaited."""
        self._number += 1
        wanted = {"expression": expression, "awaitPromise": True, "returnByValue": True}
        message = {"id": self._number, "method": "Runtime.evaluate", "params": wanted}
        self._connection.send(json.dumps(message))
        while True:
            answer = json.loads(self._connection.recv(timeout=30))
            if answer.get("id") == self._number:
                result = answer["result"]
                assert "exceptionDetails" not in result, result
                return result["result"].get("value")

    def text(self, selector: str) -> str:
        """What an element says; empty if there is none."""
        return str(self.do(f"document.querySelector({json.dumps(selector)})?.innerText ?? ''"))

    def wait(self, what: str, expression: str, limit: float = 20.0) -> None:
        """Until an expression is true; what it asks for may not be there yet."""
        attempt = f"(() => {{ try {{ return Boolean({expression}) }} catch {{ return false }} }})()"
        wait_for(what, lambda: bool(self.do(attempt)), limit)


@contextlib.contextmanager
def browse(url: str, folder: Path) -> Iterator[Page]:
    """Open a page; the browser ends with the block."""
    assert PROGRAM
    argv = [
        PROGRAM, "--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-dev-shm-usage",
        "--remote-debugging-port=0", f"--user-data-dir={folder / 'chromium'}", "--window-size=1100,1500", "about:blank",
    ]  # fmt: skip
    with subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            with connect(_tab(folder / "chromium" / "DevToolsActivePort", url), max_size=None) as connection:
                yield Page(connection)
        finally:
            process.terminate()


def _tab(port_file: Path, url: str) -> str:
    """The address of a fresh tab that shows the page."""
    wait_for("the browser listens", lambda: port_file.exists() and "\n" in port_file.read_text(), 30.0)
    port = port_file.read_text().split()[0]
    with urlopen(Request(f"http://127.0.0.1:{port}/json/new?{url}", method="PUT")) as response:
        return str(json.load(response)["webSocketDebuggerUrl"])
