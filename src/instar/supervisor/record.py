"""What a later supervisor has to know of a generation: written when it is launched, in a folder that is ours alone.

Nothing in it comes from the application's processes; what they say is checked against it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from instar.config import persist
from instar.errors import InstarError
from instar.listeners.base import Slot
from instar.supervisor.plan import Credentials, Parts, Plan
from instar.system import System

#: Of the layout; a later release reads the earlier ones.
VERSION = 1
_NAME = re.compile(r"g([1-9][0-9]{0,8})\.json\Z")


@dataclasses.dataclass(frozen=True)
class ListenerRecord:
    """A listener as it was when the generation was launched."""

    bind: str
    mode: str
    #: Cookies of its sockets (SO_COOKIE), by slot, in row order.
    cookies: Mapping[str, Sequence[int]]


@dataclasses.dataclass(frozen=True)
class Record:
    """One generation."""

    number: int
    slot: Slot
    parts: Parts
    plan: Plan
    nonce: str
    #: Inode of the scoreboard, and its rows.
    board: int
    rows: int
    listeners: tuple[ListenerRecord, ...]
    #: Of the zygote; 0: it was about to be started.
    pid: int = 0
    #: In clock ticks since boot: with the pid it names the process for good.
    start_time: int = 0
    #: The kernel's boot id: nothing outlives a reboot.
    boot_id: str = ""

    def to_json(self) -> str:
        """The document."""
        who = self.plan.credentials
        return json.dumps(
            {
                "version": VERSION,
                "generation": self.number,
                "slot": self.slot,
                "parts": {"web": self.parts.web, "handlers": self.parts.handlers, "pools": sorted(self.parts.pools)},
                "plan": {
                    "config": persist.dump(self.plan.config),
                    "python": str(self.plan.python),
                    "workers": self.plan.workers,
                    "user": [who.uid, who.gid, list(who.groups) if who.groups is not None else None],
                    "linked": self.plan.release_is_linked,
                },
                "nonce": self.nonce,
                "board": self.board,
                "rows": self.rows,
                "listeners": [dataclasses.asdict(item) for item in self.listeners],
                "pid": self.pid,
                "start_time": self.start_time,
                "boot_id": self.boot_id,
            }
        )

    @classmethod
    def from_json(cls, text: str) -> Record:
        """Read a document. Raises InstarError."""
        try:
            raw = json.loads(text)
            if raw["version"] > VERSION:
                raise InstarError("a newer instar wrote it; start that one")
            plan, parts = raw["plan"], raw["parts"]
            uid, gid, groups = plan["user"]
            return cls(
                raw["generation"],
                raw["slot"],
                Parts(parts["web"], parts["handlers"], frozenset(parts["pools"])),
                Plan(
                    persist.restore(plan["config"]),
                    Path(plan["python"]),
                    plan["workers"],
                    Credentials(uid, gid, None if groups is None else tuple(groups)),
                    plan["linked"],
                ),
                raw["nonce"],
                raw["board"],
                raw["rows"],
                tuple(ListenerRecord(**item) for item in raw["listeners"]),
                raw["pid"],
                raw["start_time"],
                raw["boot_id"],
            )
        except (ValueError, KeyError, TypeError) as error:
            raise InstarError(f"it can't be read ({type(error).__name__}: {error})") from error


@dataclasses.dataclass(frozen=True)
class Process:
    """A process that we, or a zygote, have started; with its start (clock ticks since boot) it is that one for good."""

    pid: int
    start_time: int
    name: str = ""


class Processes:
    """A file of processes, one line for each; only ever added to while its owner lives."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def add(self, process: Process) -> None:
        """Remember one. A full disk is no reason to end it: then nobody finds it later."""
        line = json.dumps([process.pid, process.start_time, process.name, boot_id()]) + "\n"
        with contextlib.suppress(OSError):
            fd = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
            try:
                os.write(fd, line.encode())
            finally:
                os.close(fd)

    def living(self, system: System) -> list[tuple[Process, int]]:
        """Those that live, with a pidfd for each, which the caller owns; the oldest first."""
        found, now = {}, boot_id()
        with contextlib.suppress(FileNotFoundError):
            for line in self._path.read_text(errors="replace").splitlines():
                with contextlib.suppress(ValueError):
                    pid, start, name, boot = json.loads(line)
                    if boot == now:
                        found[pid] = Process(pid, start, name)
        alive = ((process, open_living(process.pid, process.start_time, system)) for process in found.values())
        return [(process, pidfd) for process, pidfd in alive if pidfd >= 0]

    def clear(self) -> None:
        """Forget all."""
        self._path.unlink(missing_ok=True)


def open_living(pid: int, start_time: int, system: System) -> int:
    """A pidfd of the process that started then; -1 when it has ended."""
    try:
        pidfd = system.pidfd_open(pid)
    except OSError:
        return -1
    # In this order: a pid that was used again between the two would have another start.
    if system.start_time(pid) != start_time or system.is_zombie(pid):
        os.close(pidfd)
        return -1
    return pidfd


class Records:
    """Owner of the documents: `control/gN.json`, and `control/gN.pids` with the processes of each."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def write(self, record: Record) -> None:
        """Save, whole or not at all. Raises OSError."""
        path = self.path(record.number)
        temporary = path.with_suffix(".new")
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        with os.fdopen(fd, "w") as file:
            file.write(record.to_json())
        temporary.replace(path)

    def read(self, number: int) -> Record | None:
        """One generation; None when there is no document. Raises InstarError."""
        try:
            return Record.from_json(self.path(number).read_text())
        except FileNotFoundError:
            return None
        except (OSError, InstarError) as error:
            raise InstarError(f"cannot read {self.path(number)}: {error}") from error

    def numbers(self) -> list[int]:
        """The generations that have one, the oldest first."""
        return sorted(int(match[1]) for name in os.listdir(self._folder) if (match := _NAME.match(name)))

    def processes(self, number: int) -> Processes:
        """The processes that a generation's zygote has forked."""
        return Processes(self._folder / f"g{number}.pids")

    def keep(self, numbers: set[int]) -> None:
        """Remove all others."""
        for number in set(self.numbers()) - numbers:
            self.processes(number).clear()
            with contextlib.suppress(OSError):
                self.path(number).unlink()

    def path(self, number: int) -> Path:
        """Where the document of a generation is."""
        return self._folder / f"g{number}.json"


def boot_id() -> str:
    """The kernel's name for this boot (proc(5), random/boot_id)."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
