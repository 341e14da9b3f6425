"""The folder of one attempt: what its processes and its manager tell each other, safe against a crash of either.

| file | |
|---|---|
| `order` | what is to be run (JSON), written by the manager before the start |
| `ticket` | who begins, or that nobody ever will; appears whole and never changes: whoever makes it decides |
| `lock` | its bytes are locked: 0 by who is responsible for the attempt, 1 by all that it started; who that is (JSON) |
| `exit` | how it ended (JSON, appears whole) |
| `timed_out` | a cluster's job was ended since its time was over |
| `out`, `err` | its output |
| `error` | of a callable: its exception, in one line |
| `progress`, `result` | what it says of itself: JSON, of which the last whole line counts; one JSON value |
| `work` | its working folder, if it was given none |

It lies on a local file system, or for clusters on a shared one with atomic link(2).
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import time
from pathlib import Path
from typing import Any, Final

from instar.jobs import locks
from instar.system import System

#: Bytes of `lock`.
_RESPONSIBLE: Final = 0
_TREE: Final = 1
#: Longest `result` and longest line of `progress` that are read (bytes).
MOST_RESULT: Final = 1 << 20
MOST_PROGRESS: Final = 1 << 16
#: A void ticket is kept so long, so that a manager that was stopped meanwhile finds it (seconds).
KEEP_VOID: Final = 7 * 86400.0
#: Written when the folder of all attempts is made; it has a time.
_BIRTH: Final = ".made"


@dataclasses.dataclass(frozen=True)
class Ticket:
    """Who has decided about the beginning."""

    #: Nobody may begin.
    void: bool = False
    #: The process that is responsible for the attempt; with its start time (clock ticks since boot) it is no other.
    pid: int = 0
    start: int = 0
    at: float = 0.0
    #: In a cluster: number of the job that has begun.
    slurm: str = ""


@dataclasses.dataclass(frozen=True)
class Exit:
    """How a program ended. Times in seconds since the epoch."""

    code: int | None = None
    signal: int | None = None
    timed_out: bool = False
    started_at: float | None = None
    finished_at: float | None = None
    error: str = ""
    #: Of callables; programs write the file `result`.
    result: Any = None


class Folder:
    """Reads and writes the files. Errors are those of the system call (OSError)."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.lock = path / "lock"
        self.out = path / "out"
        self.err = path / "err"
        self.work = path / "work"
        self.timed_out = path / "timed_out"
        self.progress_file = path / "progress"
        self.result_file = path / "result"
        self.error_file = path / "error"

    def order(self, order: dict[str, Any]) -> None:
        """Make the folder and write down what is to be run; a second time, it is left as it is."""
        self.path.mkdir(mode=0o700, exist_ok=True)
        self._appear("order", order)

    def read_order(self) -> dict[str, Any]:
        """What is to be run. Raises OSError, ValueError."""
        value = json.loads((self.path / "order").read_bytes())
        if not isinstance(value, dict):
            raise ValueError("not an object")
        return value

    def take_ticket(self) -> bool:
        """Become the one that begins; False if somebody has decided before."""
        pid = os.getpid()
        return self._appear("ticket", {"pid": pid, "start": System().start_time(pid), "at": time.time()})

    def void(self) -> bool:
        """Decide that the attempt never begins; False if somebody has decided before."""
        self.path.mkdir(mode=0o700, exist_ok=True)
        return self._appear("ticket", {"void": True, "at": time.time()})

    def ticket(self) -> Ticket | None:
        """The decision; None if there is none yet."""
        raw = self._read("ticket")
        return None if raw is None else Ticket(**_known(Ticket, raw))

    def hold(self) -> int | None:
        """Become responsible for the attempt until the descriptor is closed; None if somebody is."""
        return locks.hold(self.lock, _RESPONSIBLE)

    def hold_tree(self) -> int | None:
        """A descriptor for the program and all that it starts: as long as one has it, the attempt isn't over."""
        return locks.hold(self.lock, _TREE, shared=True)

    def responsible(self) -> bool:
        """Whether the process that is responsible for the attempt lives."""
        return locks.held(self.lock, _RESPONSIBLE)

    def tree(self) -> bool:
        """Whether something that the attempt has started lives and has kept its descriptor."""
        return locks.held(self.lock, _TREE)

    def write_started(self, fd: int, **values: Any) -> None:
        """Note through the descriptor of `hold` what was started: `pid`, and `group`, its cgroup."""
        os.pwrite(fd, json.dumps(values).encode(), 0)

    def started(self) -> dict[str, Any]:
        """The same; empty before."""
        try:
            value = json.loads(self.lock.read_bytes())
        except (OSError, ValueError):
            return {}
        return value if isinstance(value, dict) else {}

    def write_exit(self, value: Exit) -> None:
        """Write down the end; it is on the disk when this returns."""
        self._appear("exit", dataclasses.asdict(value), sync=True)

    def exit(self) -> Exit | None:
        """The end; None if it hasn't been written."""
        raw = self._read("exit")
        return None if raw is None else Exit(**_known(Exit, raw))

    def result(self) -> tuple[Any, str]:
        """What the program wrote to `result`, and what is wrong with it."""
        try:
            with self.result_file.open("rb") as file:
                data = file.read(MOST_RESULT + 1)
        except OSError:
            return None, ""
        if len(data) > MOST_RESULT:
            return None, f"its result is larger than {MOST_RESULT} bytes and was not read"
        try:
            return json.loads(data), ""
        except ValueError as error:
            return None, f"its result is not JSON: {error}"

    def error(self) -> str:
        """What a callable that was run as a program died of; empty if nothing is known."""
        try:
            return self.error_file.read_text(errors="replace")[:MOST_PROGRESS]
        except OSError:
            return ""

    def progress(self) -> Any:
        """The last whole JSON line of `progress`; None if there is none."""
        try:
            with self.progress_file.open("rb") as file:
                size = file.seek(0, os.SEEK_END)
                file.seek(max(0, size - MOST_PROGRESS))
                lines = file.read(MOST_PROGRESS).splitlines()
        except OSError:
            return None
        for line in reversed(lines):
            with contextlib.suppress(ValueError):
                return json.loads(line)
        return None

    def remove(self) -> None:
        """Delete it all, unless a fresh void ticket has to stay."""
        with contextlib.suppress(OSError, ValueError):
            ticket = self.ticket()
            if ticket and ticket.void and 0 <= time.time() - ticket.at < KEEP_VOID:
                return
        _delete(self.path)

    def _read(self, name: str) -> dict[str, Any] | None:
        try:
            value = json.loads((self.path / name).read_bytes())
        except FileNotFoundError:
            return None
        return value if isinstance(value, dict) else {}

    def _appear(self, name: str, value: dict[str, Any], *, sync: bool = False) -> bool:
        """Let a file appear whole under its name; False if it was there. link(2) decides between two that try."""
        # Unique also among hosts that share the file system.
        temporary = self.path / f".{name}.{os.urandom(8).hex()}"
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            with os.fdopen(fd, "wb") as file:
                file.write(json.dumps(value).encode())
                if sync:
                    file.flush()
                    os.fsync(fd)
            os.link(temporary, self.path / name)
        except FileExistsError:
            # On NFS an answer may be lost and the request repeated: it was ours if the file has two names.
            if temporary.stat().st_nlink != 2:
                return False
        finally:
            temporary.unlink(missing_ok=True)
        if sync:
            _sync_folder(self.path)
        return True


def make_home(path: Path) -> float:
    """Make the folder of all attempts, with mode 0700; since when it exists (seconds since the epoch).

    What was dispatched before has left no traces here, whether it began or not.
    """
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    birth = path / _BIRTH
    with contextlib.suppress(FileExistsError):
        birth.touch(mode=0o600, exist_ok=False)
    return birth.stat().st_mtime


def sweep(home: Path, *, now: float | None = None) -> None:
    """Delete the folders of void tickets that are old enough."""
    limit = (time.time() if now is None else now) - KEEP_VOID
    for path in home.iterdir():
        with contextlib.suppress(OSError, ValueError):
            folder = Folder(path)
            ticket = folder.ticket() if path.is_dir() and path.stat().st_mtime < limit else None
            if ticket and ticket.void:
                _delete(path)


def _delete(path: Path) -> None:
    # Not at the top: it would make every shim larger.
    import shutil

    shutil.rmtree(path, ignore_errors=True)


def _sync_folder(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _known(cls: Any, raw: dict[str, Any]) -> dict[str, Any]:
    names = {field.name for field in dataclasses.fields(cls)}
    return {key: value for key, value in raw.items() if key in names}
