"""A simple blocking client, for questions one at a time."""

from __future__ import annotations

import http.client

from harness.project import Project


class Connection:
    """One keep-alive connection."""

    def __init__(self, port: int, timeout: float = 20.0) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout)
        self._connection.connect()
        # http.client would open another connection behind our back.
        self._connection.auto_open = 0
        self.told_to_close = False
        self.release = ""

    def send(self, path: str = "/?n=a1") -> None:
        """Send a request."""
        self._connection.request("GET", path)

    def read(self) -> int:
        """Read the response; the generation that gave it."""
        response = self._connection.getresponse()
        body = response.read()
        assert response.status == 200, (response.status, body)
        self.told_to_close = response.headers.get("connection", "").lower() == "close"
        self.release = response.headers["x-release"]
        return int(response.headers["x-generation"])

    def ask(self, path: str = "/?n=a1") -> int:
        """Send and read."""
        self.send(path)
        return self.read()

    def close(self) -> None:
        """Close."""
        self._connection.close()


def read(project: Project, path: str = "/?n=a1") -> Connection:
    """One request on a new connection, which is closed; ask it what the answer was."""
    connection = Connection(project.port)
    try:
        connection.ask(path)
    finally:
        connection.close()
    return connection


def ask(port: int, path: str = "/?n=a1") -> int:
    """One request on a new connection; the generation that answered."""
    connection = Connection(port)
    try:
        return connection.ask(path)
    finally:
        connection.close()
