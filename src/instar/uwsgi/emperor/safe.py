"""The Emperor's side of the keeper: what is put into the safe is there again after a crash of the Emperor."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from instar.supervisor.statedir import listen_unix
from instar.system import System, unix_address
from instar.uwsgi.emperor.keeper import receive, send

_SCRIPT = str(Path(__file__).with_name("keeper.py"))
#: Seconds that an answer of the keeper may take.
_PATIENCE = 5.0


class Safe:
    """Keeps copies; the descriptors that are put in stay the caller's, who takes them out before closing them."""

    def __init__(self, path: Path, output: Path, system: System, log: Callable[[str], None]) -> None:
        self._path = path
        self._output = output
        self._system = system
        self._log = log
        self._sock: socket.socket | None = None
        self._keeper: subprocess.Popen[bytes] | None = None
        self._inside: dict[str, int] = {}

    def open(self) -> dict[str, int]:
        """Find the keeper of an Emperor that died, or start one. What it holds; the descriptors are the caller's."""
        found: dict[str, int] = {}
        try:
            self._sock = self._connect()
            found = self._list(self._sock)
        except OSError:
            self._start()
        return found

    def put(self, key: str, fd: int) -> None:
        """Hold a copy under a key."""
        self._inside[key] = fd
        self._send({"keep": key}, [fd])

    def take(self, key: str) -> None:
        """Let go of one; also of one that an earlier Emperor put in."""
        self._inside.pop(key, None)
        self._send({"drop": key})

    def close(self, *, quit_keeper: bool = True) -> None:
        """The Emperor ends in order: nothing has to outlive it."""
        if self._sock is None:
            return
        if quit_keeper:
            self._send({"quit": "1"})
        self._sock.close()
        self._sock = None

    def _send(self, message: dict[str, str], fds: list[int] | None = None) -> None:
        if self._sock is None:
            return
        try:
            send(self._sock, message, fds)
        except OSError:
            self._log("the keeper of descriptors died; a new one is started")
            self._start()

    def _connect(self) -> socket.socket:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            sock.settimeout(_PATIENCE)
            with unix_address(self._path) as address:
                sock.connect(address)
        except OSError:
            sock.close()
            raise
        return sock

    def _list(self, sock: socket.socket) -> dict[str, int]:
        found: dict[str, int] = {}
        send(sock, {"list": "1"})
        while True:
            data, fds = receive(sock)
            message = json.loads(data) if data else {}
            if "key" not in message:
                return found
            found[message["key"]] = fds[0]

    def _start(self) -> None:
        """Without a keeper everything works but the survival of a crash: that is said, and no reason to stop."""
        if self._sock is not None:
            self._sock.close()
            self._sock = None
        if self._keeper is not None:
            self._system.kill(self._keeper.pid, signal.SIGKILL)
            self._system.finish(self._keeper)
            self._keeper = None
        try:
            with listen_unix(self._path, socket.SOCK_SEQPACKET, 4) as listener:
                output = self._system.open_append(self._output)
                try:
                    self._keeper = self._system.spawn(
                        (sys.executable, "-I", "-S", _SCRIPT, str(listener.fileno())),
                        env={"PATH": os.environ.get("PATH", ""), **_marks()},
                        cwd="/",
                        output=output,
                        pass_fds=[listener.fileno()],
                    )
                finally:
                    os.close(output)
                self._sock = self._connect()
            for key, fd in self._inside.items():
                send(self._sock, {"keep": key}, [fd])
        except OSError as error:
            why = f"{error.strerror}; a crash of this one would end the vassals on the real uWSGI"
            self._log(f"cannot keep descriptors for the next Emperor: {why}")


def _marks() -> dict[str, str]:
    """Variables by which whoever started the Emperor finds all processes of it."""
    return {name: value for name, value in os.environ.items() if name.startswith("INSTAR_")}
