"""The launcher: a small process that forks a shim for each local job.

Jobs must not be below a handler: its tree (and its cgroup) is killed when it releases its name. And a fork of a small
process is cheap, where the handler may have loaded an application of hundreds of megabytes.

It knows nothing and keeps nothing: each connection is one request, which the forked shim reads and answers. It runs
as the application's user and serves that user only. `spawn` starts it; it ends when the other end of `life` is closed
(`linger`: when a newer launcher has taken its path, besides, since jobs may be started while the supervisor is dead).
"""

from __future__ import annotations

import gc
import json
import os
import select
import signal
import socket
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

from instar.jobs import shim
from instar.jobs.spawn import Groups, set_name
from instar.system import unix_address

#: Run by path, as nothing is importable yet in a bare interpreter.
BOOTSTRAP: Final = Path(__file__).with_name("bootstrap.py")
#: Requests that wait while it forks.
BACKLOG: Final = 512
#: Seconds between two looks at whether its path is still its own, when nobody keeps it any more.
_LOOK: Final = 1.0
#: Seconds in which a shim has to answer.
_PATIENCE: Final = 15.0


def command(path: Path, life_fd: int, *, linger: bool, python: str | Path = sys.executable) -> list[str]:
    """What to execute: it will listen at `path`, and inherit `life_fd`, the read end of a pipe."""
    mode = "linger" if linger else "leave"
    # -I -S: nothing of the environment or of site-packages, which would cost memory and could be changed under it.
    return [str(python), "-I", "-S", str(BOOTSTRAP), "launcher", str(path), str(life_fd), mode]


def main(argv: list[str]) -> int:
    """The launcher's process, until its life ends."""
    path, life_fd, mode = Path(argv[0]), int(argv[1]), argv[2]
    set_name("instar-launcher")
    with listen(path) as listener:
        Launcher(path, listener, life_fd, linger=mode == "linger").run()
    return 0


class Launcher:
    """Owner of the listening socket's copy here, and parent of the shims."""

    def __init__(self, path: Path, listener: socket.socket, life_fd: int, *, linger: bool) -> None:
        self._path = path
        self._listener = listener
        self._life: int | None = life_fd
        self._linger = linger
        self._groups = Groups()
        self._inode = _inode(self._path)
        self._wake, self._wake_writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)

    def run(self) -> None:
        """Serve."""
        listener = self._listener
        # A client may have gone again before we accept.
        listener.setblocking(False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.set_wakeup_fd(self._wake_writer, warn_on_full_buffer=False)
        gc.collect()
        gc.freeze()
        poll = select.poll()
        for fd in (listener.fileno(), self._wake, self._life):
            if fd is not None:
                poll.register(fd, select.POLLIN)
        while True:
            ready = {fd for fd, _ in poll.poll(None if self._life is not None else _LOOK * 1000)}
            if self._wake in ready:
                os.read(self._wake, 512)
                _reap()
            if self._life in ready and self._life is not None:
                if not self._linger:
                    return
                poll.unregister(self._life)
                os.close(self._life)
                self._life = None
            if self._life is None and _inode(self._path) != self._inode:
                return
            if listener.fileno() in ready:
                self._accept()

    def _accept(self) -> None:
        try:
            connection, _ = self._listener.accept()
        except (BlockingIOError, ConnectionAbortedError):
            return
        with connection:
            if _peer_uid(connection) not in (0, os.geteuid()):
                return
            try:
                pid = os.fork()
            except OSError:
                # No process to be had: whoever asked sees the end of the connection, and finds no ticket.
                return
            if pid == 0:
                self._become_shim(connection)

    def _become_shim(self, connection: socket.socket) -> None:
        status = 1
        try:
            signal.set_wakeup_fd(-1)
            for fd in (self._listener.fileno(), self._life, self._wake, self._wake_writer):
                if fd is not None:
                    os.close(fd)
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            signal.signal(signal.SIGHUP, signal.SIG_IGN)
            status = shim.serve(connection, self._groups)
        except BaseException:
            # To the launcher's own output; a shim that failed has left a ticket without an end, which is "lost".
            sys.excepthook(*sys.exc_info())
        finally:
            os._exit(status)


def _reap() -> None:
    """Collect the shims that have ended."""
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        pass


def _peer_uid(connection: socket.socket) -> int:
    credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    return int(struct.unpack("3i", credentials)[1])


def _inode(path: Path) -> tuple[int, int] | None:
    try:
        status = path.lstat()
    except OSError:
        return None
    return status.st_dev, status.st_ino


def ask(path: Path, folder: Path) -> dict[str, Any] | None:
    """Have a shim begin the attempt in a folder, and return its answer; None if there was none.

    Without an answer the attempt may have begun or not. Raises OSError when the launcher can't be reached: then it
    hasn't, not by this call.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as sock:
        sock.settimeout(_PATIENCE)
        with unix_address(path) as address:
            sock.connect(address)
        try:
            sock.send(json.dumps({"version": 1, "folder": str(folder)}).encode())
            data = sock.recv(shim.MOST)
        except OSError:
            return None
    try:
        answer = json.loads(data)
    except ValueError:
        return None
    return answer if isinstance(answer, dict) else None


class OwnLauncher:
    """A launcher of this process, for managers that no supervisor looks after. It ends with us; its shims don't."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._life = -1
        self._process: subprocess.Popen[bytes] | None = None

    def ensure(self) -> None:
        """Start it unless it runs; it listens a moment later. Raises OSError."""
        if self._process is not None and self._process.poll() is None:
            return
        read, write = os.pipe2(os.O_CLOEXEC)
        try:
            self._process = subprocess.Popen(
                command(self.path, read, linger=False),
                stdin=subprocess.DEVNULL,
                pass_fds=(read,),
                start_new_session=True,
                cwd="/",
            )
        except BaseException:
            os.close(write)
            raise
        finally:
            os.close(read)
        if self._life >= 0:
            os.close(self._life)
        self._life = write

    def close(self) -> None:
        """End it; the jobs go on."""
        if self._life >= 0:
            os.close(self._life)
            self._life = -1
        if self._process is not None:
            self._process.wait()
            self.path.unlink(missing_ok=True)


def listen(path: Path) -> socket.socket:
    """The socket that a launcher serves, mode 0600; one that is in the way is replaced at once. Raises OSError."""
    temporary = path.with_name(f"{path.name}.{os.getpid()}")
    temporary.unlink(missing_ok=True)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    before = os.umask(0o177)
    try:
        with unix_address(temporary) as address:
            sock.bind(address)
        sock.listen(BACKLOG)
        temporary.rename(path)
    except BaseException:
        sock.close()
        raise
    finally:
        os.umask(before)
    return sock
