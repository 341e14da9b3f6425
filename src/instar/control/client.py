"""Asks a supervisor through its control socket."""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from instar.errors import BusyError, ConfigError, ExitCode, InstarError, NoSupervisorError
from instar.system import unix_address

_ERRORS: dict[int, type[InstarError]] = {400: ConfigError, 409: BusyError}


class Client:
    """One supervisor, found by its state directory. Raises NoSupervisorError when nobody answers there."""

    def __init__(self, state_dir: Path) -> None:
        self.path = state_dir / "control" / "control.sock"
        #: For the members of `[app] deploy_group`, to whom the other is closed.
        self.door = state_dir / "deploy" / "control.sock"

    def get(self, path: str) -> dict[str, Any]:
        """The answer to a query."""
        return self._object("GET", path, None)

    def post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        """The answer to a command."""
        return self._object("POST", path, body)

    def stream(self, method: str, path: str, body: dict[str, Any] | None = None) -> Iterator[dict[str, Any]]:
        """The objects of an answer that comes line by line (application/x-ndjson)."""
        with self._request(method, path, body) as response:
            try:
                for line in response:
                    yield json.loads(line)
            except (OSError, http.client.HTTPException) as error:
                raise NoSupervisorError(f"cannot go on: the supervisor went away ({error})") from error

    def _object(self, method: str, path: str, body: dict[str, Any] | None) -> dict[str, Any]:
        with self._request(method, path, body) as response:
            answer: dict[str, Any] = json.loads(response.read())
            return answer

    @contextlib.contextmanager
    def _request(self, method: str, path: str, body: dict[str, Any] | None) -> Iterator[http.client.HTTPResponse]:
        connection = _UnixConnection(self.path, self.door)
        try:
            payload = None if body is None else json.dumps(body)
            connection.request(method, path, payload, {"Content-Type": "application/json"})
            response = connection.getresponse()
            if response.status >= 400:
                raise _error(response)
            yield response
        except (OSError, http.client.HTTPException) as error:
            raise NoSupervisorError(
                f"cannot reach a supervisor at {self.path}: {_reason(error)}; start one with `instar run`"
            ) from error
        finally:
            connection.close()


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path, door: Path) -> None:
        super().__init__("localhost")
        self._path = path
        self._door = door

    def connect(self) -> None:
        try:
            self._connect(self._path)
        except PermissionError:
            try:
                self._connect(self._door)
            except OSError:
                pass
            else:
                return
            raise

    def _connect(self, path: Path) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            with unix_address(path) as address:
                self.sock.connect(address)
        except BaseException:
            self.sock.close()
            raise


def _error(response: http.client.HTTPResponse) -> InstarError:
    try:
        raw = json.loads(response.read())
        text = str(raw["error"])
    except (ValueError, KeyError, TypeError):
        return InstarError(f"cannot do that: the supervisor answered with status {response.status}")
    error = _ERRORS.get(response.status, InstarError)(text)
    with contextlib.suppress(ValueError, TypeError):
        error.exit_code = ExitCode(raw.get("exit_code", error.exit_code))
    return error


def _reason(error: Exception) -> str:
    if isinstance(error, FileNotFoundError):
        return "there is no control socket"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror.lower()
    return str(error) or type(error).__name__
