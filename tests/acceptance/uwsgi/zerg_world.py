"""Pools and zerglings, ours and the real uWSGI's, in one folder."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import struct
import subprocess
import sys
import threading
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from harness.control import Control
from harness.processes import MARK, alive, kill_all
from harness.project import TESTS, free_port
from harness.waiting import wait_for

from instar.system.notify import close_all, notice_socket, receive
from instar.uwsgi.emperor import exec_with

OURS = [str(Path(sys.executable).with_name("instar-uwsgi"))]


def real_uwsgi() -> str | None:
    """The real uWSGI: beside the interpreter, or on PATH."""
    beside = shutil.which("uwsgi", path=str(Path(sys.executable).parent))
    return beside or shutil.which("uwsgi")


class Keeper:
    """Starts a program as systemd or an Emperor would: keeps its descriptors, and gives them to its next start."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "notify"
        self.stored: dict[str, int] = {}
        self._sock = notice_socket(self.path)
        self._sock.settimeout(0.2)
        self._ended = False
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._listen, daemon=True)
        self._thread.start()

    def _listen(self) -> None:
        while not self._ended:
            with contextlib.suppress(TimeoutError):
                notice = receive(self._sock)
                if notice is None:
                    continue
                with self._lock:
                    name = notice.fields.get("FDNAME", "")
                    if "FDSTOREREMOVE" in notice.fields and name in self.stored:
                        os.close(self.stored.pop(name))
                    if "FDSTORE" in notice.fields:
                        [self.stored[name]] = map(os.dup, notice.fds)
                notice.close()

    def command(self, argv: Sequence[str]) -> tuple[list[str], list[int]]:
        """What to run, and the descriptors to pass."""
        with self._lock:
            if not self.stored:
                return list(argv), []
            fds, names = list(self.stored.values()), ":".join(self.stored)
        prefix = [sys.executable, "-I", "-S", str(exec_with.__file__), ",".join(map(str, fds)), names]
        return [*prefix, *argv], fds

    def close(self) -> None:
        self._ended = True
        self._thread.join()
        self._sock.close()
        close_all(self.stored.values())


class Started:
    """A process of the world."""

    def __init__(self, process: subprocess.Popen[bytes], log: Path, fifo: Path | None, state: Path | None) -> None:
        self.process = process
        self.log = log
        self._fifo = fifo
        self._state = state

    @property
    def pid(self) -> int:
        return self.process.pid

    def text(self) -> str:
        return self.log.read_text(errors="replace")

    def letter(self, letter: str) -> None:
        """Write to the master FIFO."""
        assert self._fifo is not None
        fd = os.open(self._fifo, os.O_WRONLY | os.O_NONBLOCK)
        os.write(fd, letter.encode())
        os.close(fd)

    def ends(self, limit: float = 90.0) -> int:
        try:
            return self.process.wait(limit)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"{self.log.name} does not end:\n{self.text()[-3000:]}") from None

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def status(self) -> dict[str, Any]:
        """Of an instance of ours."""
        assert self._state is not None
        return Control(self._state).get("/v1/status")

    def serves(self) -> bool:
        """Whether an instance of ours serves; fails when it has ended."""
        assert self.process.poll() is None, f"{self.log.name} ended:\n{self.text()[-4000:]}"
        with contextlib.suppress(OSError):
            return bool(self.status()["state"] == "serving")
        return False


class ZergWorld:
    """One pool, its zerglings."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.pool_path = folder / "pool.sock"
        self.app_sock = folder / "app.sock"
        self.port, self.http_port = free_port(), free_port()
        #: Where `LoadProcess(folder / "load", …)` opens the gates of its requests.
        self.gates = folder / "load" / "gates"
        self.keeper: Keeper | None = None
        self._mark = uuid.uuid4().hex
        self._started: list[Started] = []
        self._pools = 0

    # --- starting -----------------------------------------------------------------------------------

    @property
    def pool_arguments(self) -> list[str]:
        addresses = f"127.0.0.1:{self.port},{self.app_sock}"
        http = ["--http", f"127.0.0.1:{self.http_port}", "--http-to", f"127.0.0.1:{self.port}"]
        return ["--master", *http, "--zerg-pool", f"{self.pool_path}:{addresses}"]

    def keep(self) -> Keeper:
        """From now on, pools are started by somebody who keeps their sockets."""
        self.keeper = Keeper(self.folder)
        return self.keeper

    def our_pool(self, arguments: Sequence[str] | None = None, *, ready: bool = True) -> Started:
        argv, fds = [*OURS, "--die-on-term", *(arguments or self.pool_arguments)], []
        env = {}
        if self.keeper is not None:
            argv, fds = self.keeper.command(argv)
            env = {"NOTIFY_SOCKET": str(self.keeper.path)}
        self._pools += 1
        pool = self.start("pool", argv, env, fds, state=self.folder / f"state-{self._pools}")
        if ready:
            wait_for("the pool serves", pool.serves, 90)
        return pool

    def real_pool(self) -> Started:
        uwsgi = real_uwsgi()
        assert uwsgi
        pool = self.start("real-pool", [uwsgi, *self.pool_arguments])
        wait_for("the real pool listens", lambda: "zergpool" in pool.text() and self.pool_path.exists(), 60)
        return pool

    def zergling(self, kind: str, word: str, *more: str, ready: bool = True) -> Started:
        """An instance of the test application, whose answers say `word`."""
        release = self.folder / word
        release.mkdir()
        (release / "release").write_text(word)
        fifo = release / "fifo"
        argv = [*(OURS if kind == "ours" else [str(real_uwsgi())]), "--master", "--zerg", str(self.pool_path)]
        argv += ["--master-fifo", str(fifo), "--chdir", str(release), "--pythonpath", str(TESTS), "--need-app"]
        argv += [
            "--module",
            "apps.wsgi:app",
            "--processes",
            "2",
            "--threads",
            "8",
            "--enable-threads",
            "--disable-logging",
            *more,
        ]
        state = release / "state" if kind == "ours" else None
        started = self.start(word, argv, {"TEST_GATES": str(self.gates)}, fifo=fifo, state=state)
        if ready:
            serves = started.serves if kind == "ours" else lambda: "spawned uWSGI worker 2" in started.text()
            wait_for(f"{word} serves", serves, 90)
        return started

    def start(
        self,
        name: str,
        argv: Sequence[str],
        env: dict[str, str] | None = None,
        fds: Sequence[int] = (),
        fifo: Path | None = None,
        state: Path | None = None,
    ) -> Started:
        log = self.folder / f"{name}.log"
        where = {"INSTAR_STATE_DIR": str(state)} if state else {}
        inherited = {key: value for key, value in os.environ.items() if not key.startswith(("PYTEST", "COV", "UWSGI"))}
        with log.open("a") as output:
            process = subprocess.Popen(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                cwd=self.folder,
                env={**inherited, **(env or {}), **where, MARK: self._mark},
                pass_fds=fds,
            )
        started = Started(process, log, fifo, state)
        self._started.append(started)
        return started

    # --- asking -------------------------------------------------------------------------------------

    def ask(self, where: Any = "http", path: str = "/", limit: float = 20.0) -> str:
        """One request; the word of whoever answered. `where`: http, or tcp, unix, or an address (uwsgi protocol)."""
        if where == "http":
            answer = talk(("127.0.0.1", self.http_port), f"GET {path} HTTP/1.0\r\n\r\n".encode(), limit)
        else:
            known = {"tcp": ("127.0.0.1", self.port), "unix": str(self.app_sock)}
            answer = talk(known.get(where, where), uwsgi_packet(path), limit)
        head, _, body = answer.partition(b"\r\n\r\n")
        assert b" 200 " in head.split(b"\r\n")[0], answer
        return body.split()[3].decode()

    def until(self, word: str, where: str = "http", limit: float = 30.0) -> None:
        """Wait until this zergling answers."""
        wait_for(f"{word} answers", lambda: self.ask(where) == word, limit)

    def clean_up(self) -> str:
        """End everything; what was said."""
        kill_all(self._mark)
        for started in self._started:
            started.process.wait(10)
        if self.keeper is not None:
            self.keeper.close()
        return "\n".join(f"--- {started.log.name} ---\n{started.text()[-4000:]}" for started in self._started)


def uwsgi_packet(path: str) -> bytes:
    """A request as nginx would send it."""
    variables = {
        "REQUEST_METHOD": "GET",
        "REQUEST_URI": path,
        "PATH_INFO": path.partition("?")[0],
        "QUERY_STRING": path.partition("?")[2],
        "SERVER_PROTOCOL": "HTTP/1.1",
        "SERVER_NAME": "test",
        "SERVER_PORT": "80",
        "REMOTE_ADDR": "127.0.0.1",
    }
    parts = [struct.pack("<H", len(item)) + item.encode() for pair in variables.items() for item in pair]
    block = b"".join(parts)
    return struct.pack("<BHB", 0, len(block), 0) + block


def talk(address: Any, data: bytes, limit: float = 20.0) -> bytes:
    """Send, and read to the end."""
    family = socket.AF_UNIX if isinstance(address, str) else socket.AF_INET
    with socket.socket(family) as client:
        client.settimeout(limit)
        client.connect(address)
        client.sendall(data)
        parts = []
        while part := client.recv(65536):
            parts.append(part)
    return b"".join(parts)


class Hammer:
    """Requests over the uwsgi protocol, from threads, until `stop`; every failure is kept."""

    def __init__(self, world: ZergWorld, where: Sequence[str] = ("tcp", "unix"), threads: int = 4) -> None:
        self.words: dict[str, int] = {}
        self.failures: list[str] = []
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._threads = [
            threading.Thread(target=self._run, args=(lambda place=place: world.ask(place),), daemon=True)
            for place in where
            for _ in range(threads)
        ]
        for thread in self._threads:
            thread.start()

    def _run(self, ask: Callable[[], str]) -> None:
        while not self._ended.is_set():
            try:
                word = ask()
            except (OSError, AssertionError, IndexError) as error:
                with self._lock:
                    self.failures.append(repr(error))
            else:
                with self._lock:
                    self.words[word] = self.words.get(word, 0) + 1
            self._ended.wait(0.005)

    def answered(self, word: str) -> None:
        """Wait for an answer of this zergling that is newer than now."""
        before = self.words.get(word, 0)
        wait_for(f"an answer of {word}", lambda: self.words.get(word, 0) > before, 60)

    def stop(self) -> int:
        """No request may have failed; how many there were."""
        self._ended.set()
        for thread in self._threads:
            thread.join(40)
        assert not any(thread.is_alive() for thread in self._threads)
        assert not self.failures, (len(self.failures), self.failures[:5], self.words)
        return sum(self.words.values())


__all__ = ["Hammer", "Keeper", "ZergWorld", "alive", "real_uwsgi", "talk", "uwsgi_packet"]
