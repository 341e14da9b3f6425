"""The module that applications import as `uwsgi`: names, return values and types of uWSGI 2.0.31 on Python 3."""

from __future__ import annotations

import os
import sys
import time
import types
from collections.abc import Callable
from typing import Any

from instar.runtime import extension
from instar.runtime.scoreboard import Scoreboard
from instar.uwsgi.inside import figures, refused
from instar.uwsgi.inside.data import DEFAULT_BUFFER_SIZE, InsideData, MuleData
from instar.uwsgi.inside.harakiri import Harakiri
from instar.uwsgi.inside.locks import Locks
from instar.uwsgi.inside.mail import Mail

#: What is provided is that release's; libraries compare it.
VERSION = (2, 0, 31, 0, b"")
MAX_MESSAGE = 65536


class Functions:
    """The functions. Their names are part of the contract, and so are the odd values that some return."""

    def __init__(
        self,
        data: InsideData,
        board: Scoreboard,
        workers: int,
        locks: Locks,
        mail: Mail,
        ask: Callable[[str], object],
    ) -> None:
        self._data = data
        self._board = board
        self._workers = workers
        self._locks = locks
        self._mail = mail
        self._ask = ask
        self._harakiri = Harakiri()
        self._master = os.getppid()
        self._worker = 0
        self._row = -1
        self._mule: MuleData | None = None

    def become_worker(self, index: int, row: int) -> None:
        """This process is a worker now."""
        self._worker, self._row = index, row

    def become_mule(self, mule: MuleData) -> None:
        """This process is a mule now."""
        self._mule = mule
        self._mail.open_for(mule)

    # --- who am I ---------------------------------------------------------------------------------

    def worker_id(self) -> int:
        """Number of this worker, from 1; 0 elsewhere."""
        return self._worker

    def mule_id(self) -> int:
        """Number of this mule, from 1; 0 elsewhere."""
        return self._mule.number if self._mule else 0

    def in_farm(self, name: str | None = None) -> bool | None:
        """True in a mule of this farm (of any); else None."""
        farms = self._mule.farms if self._mule else ()
        return True if (name in farms if name is not None else bool(farms)) else None

    def masterpid(self) -> int:
        """The supervisor's pid."""
        return self._master

    def i_am_the_spooler(self) -> None:
        """None: there is no spooler."""

    def i_am_the_lord(self, legion: str) -> bool:
        """False: there are no legions."""
        return False

    # --- the instance -----------------------------------------------------------------------------

    def reload(self) -> bool | None:
        """Ask the supervisor for a handover to the code on disk; True when it was told."""
        return self._tell(extension.RELOAD)

    def stop(self) -> bool | None:
        """Ask the supervisor to stop gracefully; True when it was told."""
        return self._tell(extension.STOP)

    def _tell(self, what: str) -> bool | None:
        try:
            self._ask(what)
        except OSError as error:
            print(f"cannot ask the supervisor to {what}: {error.strerror}", file=sys.stderr)
            return None
        return True

    def ready(self) -> bool | None:
        """True when every worker of this generation serves; else None."""
        return True if figures.all_ready(self._board, self._workers) else None

    def accepting(self, flag: int = 1) -> None:
        """Nothing: a worker counts as accepting when its server says so."""

    def workers(self) -> tuple[dict[str, Any], ...]:
        """The workers of this generation. What instar doesn't count is 0."""
        return figures.workers(self._board, self._workers)

    def total_requests(self) -> int:
        """Requests that the living workers of this generation have answered."""
        return figures.requests(self._board)

    def request_id(self) -> int:
        """Requests that this worker has answered."""
        return figures.requests(self._board, self._row) if self._row >= 0 else 0

    def mem(self) -> tuple[int, int]:
        """Memory of this process in bytes: resident, virtual."""
        return figures.memory()

    def log(self, line: str) -> bool:
        """Write a line to the log; True."""
        if not isinstance(line, str):
            raise TypeError(f"log() argument 1 must be str, not {type(line).__name__}")
        print(line, file=sys.stderr, flush=True)
        return True

    def set_logvar(self, key: str, value: str) -> None:
        """Nothing: instar's access log has no variables of the application."""

    def get_logvar(self, key: str) -> None:
        """None, for the same reason."""

    def setprocname(self, name: str) -> None:
        """Rename the process, as far as the kernel goes: 15 bytes."""
        with open("/proc/self/comm", "w") as file:
            file.write(name[:15])

    def set_user_harakiri(self, seconds: int) -> None:
        """Kill this process unless it says so again (0: never mind) within so many seconds."""
        self._harakiri.arm(seconds)

    def micros(self) -> int:
        """The time in microseconds."""
        return time.time_ns() // 1000

    # --- locks ------------------------------------------------------------------------------------

    def lock(self, number: int = 0) -> None:
        """Wait for a lock. ValueError for an unknown one."""
        self._locks.lock(number)

    def unlock(self, number: int = 0) -> None:
        """Give it back."""
        self._locks.unlock(number)

    def is_locked(self, number: int = 0) -> bool:
        """Whether anybody holds it."""
        return self._locks.is_locked(number)

    # --- mules and farms --------------------------------------------------------------------------

    def mule_msg(self, message: str | bytes, to: object = 0) -> bool:
        """Queue a message for a mule (its number; 0: any) or a farm (its name, as bytes); False when it is full."""
        data = _bytes("mule_msg", 1, message)
        if not self._data.mules:
            raise ValueError("no mule configured")
        if isinstance(to, bytes):
            return self._mail.to_farm(to.decode(errors="surrogateescape"), data)
        if not isinstance(to, int):
            raise ValueError("invalid mule")
        return self._mail.to_common(data) if to == 0 else self._mail.to_mule(to, data)

    def farm_msg(self, farm: str, message: str | bytes) -> None:
        """Queue a message for a farm. None always, also when nobody will get it, which is only logged."""
        data = _bytes("farm_msg", 2, message)
        if farm in self._data.farms:
            self._mail.to_farm(farm, data)

    def mule_get_msg(
        self, signals: object = True, farms: object = True, buffer_size: int = MAX_MESSAGE, timeout: int = -1
    ) -> bytes:
        """Wait for a message; b"" after `timeout` seconds, or when a signal interrupted the wait."""
        self._need_mule("mule")
        return self._mail.for_mule(bool(farms), buffer_size, None if timeout < 0 else timeout) or b""

    def farm_get_msg(self) -> bytes | None:
        """Wait for a message to one of this mule's farms; None when a signal interrupted the wait."""
        self._need_mule("farm")
        return self._mail.for_farms(MAX_MESSAGE) or None

    def _need_mule(self, kind: str) -> None:
        if self._mule is None:
            raise ValueError(f"you can receive {kind} messages only in a mule !!!")


class UwsgiModule(types.ModuleType):
    """The module itself: hooks that instar would never call are told of when they are set."""

    def __setattr__(self, name: str, value: object) -> None:
        if name == "after_req_hook":
            print("*** uwsgi.after_req_hook is set, but instar doesn't call it ***", file=sys.stderr, flush=True)
        super().__setattr__(name, value)


def make(data: InsideData, functions: Functions, *, workers: int, sockets: list[int]) -> UwsgiModule:
    """The module, with the values that stay the same and every public function."""
    module = UwsgiModule("uwsgi", "uWSGI's API, provided by instar.")
    threads = max(1, data.number("threads", default=1))
    values = {
        "version": ".".join(map(str, VERSION[:3])).encode(),
        "version_info": VERSION,
        "hostname": os.fsencode(os.uname().nodename),
        "numproc": workers or data.number("processes", "workers", "p", default=1),
        "has_threads": 1,
        "cores": threads,
        "buffer_size": data.number("buffer-size", "b", default=DEFAULT_BUFFER_SIZE),
        "sockets": sockets,
        "started_on": int(time.time()),
        "is_a_reload": False,
        "applications": None,
        "loop": None,
        "unbit": None,
        "opt": options(data),
        "__getattr__": refused.refuse("uwsgi"),
    }
    values |= {key: _encode(value) for key in ("mode", "pidfile") if (value := data.last(key))}
    module.__dict__.update(values)
    for name in dir(functions):
        if not name.startswith("_") and name not in ("become_worker", "become_mule"):
            module.__dict__[name] = getattr(functions, name)
    return module


def options(data: InsideData) -> dict[str, Any]:
    """`uwsgi.opt`: bytes, True for an option without a value, a list for one that is repeated.

    uWSGI means the list too, and has it on Python 2; on Python 3 only the last value is left (python_plugin.c looks
    for the key as bytes and stores it as text).
    """
    found: dict[str, list[bytes | bool]] = {}
    for key, value in data.options:
        found.setdefault(key, []).append(True if value is None else _encode(value))
    return {key: values[0] if len(values) == 1 else values for key, values in found.items()}


def _encode(text: str) -> bytes:
    return text.encode(errors="surrogateescape")


def _bytes(function: str, number: int, value: object) -> bytes:
    if isinstance(value, str):
        return value.encode()
    if isinstance(value, bytes):
        return value
    kind = type(value).__name__
    raise TypeError(f"{function}() argument {number} must be read-only bytes-like object, not {kind}")
