"""The state directory: `control/` belongs to the supervisor, `app/` to the application's user."""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
from collections.abc import Iterator
from pathlib import Path

from instar.errors import InstarError
from instar.system import guarded, unix_address
from instar.system.trust import check

_LOCK_FLAGS = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC


class OccupiedError(InstarError):
    """A supervisor already runs in this state directory."""


class StateDir:
    """Paths, and the lock that lets one supervisor run. The lock lives as long as the object."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.control = root / "control"
        self.app = root / "app"
        self.journal = self.control / "journal.jsonl"
        self.socket = self.control / "control.sock"
        #: The same, for the members of `[app] deploy_group`, to whom `control/` is closed.
        self.door = root / "deploy" / "control.sock"
        self.log = self.control / "log"
        self.output = self.app / "output"
        #: Private copies of the versions of instar that run here.
        self.releases = root / "releases"
        self.launcher = self.app / "launcher.sock"
        self._lock = -1

    def create(self, uid: int | None, gid: int | None) -> None:
        """Make the folders. `uid` and `gid`: the application's user, if it is not ours."""
        try:
            # Others may pass through (0711), so that the application's user reaches `app/`; nobody may list it.
            self.root.mkdir(mode=0o711, parents=True, exist_ok=True)
            if uid is not None:
                check(self.root)
            for folder in (self.control, self.log):
                folder.mkdir(mode=0o700, exist_ok=True)
            os.close(guarded.open_folder(self.root, ("app", "output"), uid, gid))
        except OSError as error:
            raise InstarError(
                f"cannot create the state directory {self.root}: {error.strerror}; choose another with INSTAR_STATE_DIR"
            ) from error

    def lock(self, inherited: int = -1) -> None:
        """Become the only supervisor here. Raises OccupiedError when there is one.

        `inherited`: a descriptor with the lock, of the version that we were.
        """
        fd = inherited if inherited >= 0 else os.open(self.control / "lock", _LOCK_FLAGS, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(fd, 32, 0).decode(errors="replace").strip()
            os.close(fd)
            raise OccupiedError(
                f"cannot start: a supervisor (pid {holder or 'unknown'}) already runs in {self.root}; "
                "use `instar restart` to load new code or `instar stop` to end it"
            ) from None
        os.ftruncate(fd, 0)
        os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)
        self._lock = fd

    @property
    def lock_fd(self) -> int:
        """The descriptor that holds the lock; ours."""
        return self._lock

    def unlock(self) -> None:
        """Leave it to others."""
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def generation_output(self, number: int, uid: int | None, gid: int | None) -> Path:
        """The folder for the output of a generation's processes."""
        os.close(guarded.open_folder(self.root, ("app", "output", f"g{number}"), uid, gid))
        return self.output / f"g{number}"

    def handlers(self, uid: int | None, gid: int | None) -> Path:
        """The folder of the handlers' lock files."""
        os.close(guarded.open_folder(self.root, ("app", "handlers"), uid, gid))
        return self.app / "handlers"


@contextlib.contextmanager
def appending(path: Path) -> Iterator[int]:
    """A descriptor that appends to `STATE/app/output/FOLDER/FILE`, a place that is not ours alone. Raises OSError."""
    fd = guarded.open_append(path.parents[3], path.parts[-4:])
    try:
        yield fd
    finally:
        os.close(fd)


def listen_unix(path: Path, kind: socket.SocketKind, backlog: int) -> socket.socket:
    """A listening UNIX socket with mode 0600 at `path`; a stale one is replaced."""
    sock = socket.socket(socket.AF_UNIX, kind)
    path.unlink(missing_ok=True)
    # No chmod afterwards: the application's user could have put a link to another file in its place.
    before = os.umask(0o177)
    try:
        with unix_address(path) as address:
            sock.bind(address)
    finally:
        os.umask(before)
    sock.listen(backlog)
    return sock


def lock_folder() -> Path:
    """Where this user's supervisors keep their address locks, whatever their state directories; created.

    Raises InstarError.
    """
    if os.geteuid() == 0:
        base = Path("/run/instar")
    elif runtime := os.environ.get("XDG_RUNTIME_DIR"):
        base = Path(runtime) / "instar"
    else:
        base = Path.home() / ".local/state/instar"
    folder = base / ".addresses"
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise InstarError(f"cannot create {folder} for address locks: {error.strerror}") from error
    return folder
