"""Counts the connections of processes that don't count their own (the `command` engine)."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterable
from pathlib import Path

#: States in /proc/net/tcp: ESTABLISHED (proc_pid_net(5), include/net/tcp_states.h).
_ESTABLISHED = "01"
#: States in /proc/net/unix: SS_CONNECTED.
_CONNECTED = "03"


def count_from_outside(pids: Iterable[int], listeners: Iterable[socket.socket]) -> int:
    """Established connections to the listeners that these processes, or their children, hold.

    Reading the descriptors of another user's process needs CAP_SYS_PTRACE; those count as having none.
    """
    ports, paths = set(), set()
    for sock in listeners:
        name = sock.getsockname()
        if isinstance(name, tuple):
            ports.add(f"{name[1]:04X}")
        else:
            paths.add(str(name))
    held = {inode for pid in _with_children(pids) for inode in _sockets(pid)}
    return len(held & (_tcp(ports) | _unix(paths)))


def _with_children(pids: Iterable[int]) -> Iterable[int]:
    for pid in pids:
        yield pid
        with contextlib.suppress(OSError):
            yield from _with_children(map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split()))


def _sockets(pid: int) -> Iterable[str]:
    with contextlib.suppress(OSError):
        for entry in os.listdir(f"/proc/{pid}/fd"):
            with contextlib.suppress(OSError):
                target = str(Path(f"/proc/{pid}/fd", entry).readlink())
                if target.startswith("socket:["):
                    yield target[8:-1]


def _tcp(ports: set[str]) -> set[str]:
    inodes = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        with contextlib.suppress(OSError):
            for line in Path(table).read_text().splitlines()[1:]:
                fields = line.split()
                if fields[3] == _ESTABLISHED and fields[1].rpartition(":")[2] in ports:
                    inodes.add(fields[9])
    return inodes


def _unix(paths: set[str]) -> set[str]:
    inodes = set()
    with contextlib.suppress(OSError):
        for line in Path("/proc/net/unix").read_text().splitlines()[1:]:
            fields = line.split(maxsplit=7)
            if len(fields) == 8 and fields[5] == _CONNECTED and fields[7] in paths:
                inodes.add(fields[6])
    return inodes
