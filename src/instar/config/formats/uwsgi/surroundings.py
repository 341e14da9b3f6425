"""Everything outside the file that its meaning depends on."""

from __future__ import annotations

import dataclasses
import grp
import os
import pwd
import socket
import time
from collections.abc import Mapping
from pathlib import Path

#: What `%V` says: the version whose semantics are followed.
VERSION = "2.0.31"

#: Plugins that are part of the program, for `if-plugin`.
EMBEDDED_PLUGINS = frozenset({"python", "http", "zergpool", "corerouter", "cache", "signal", "ping", "spooler", "rpc"})


@dataclasses.dataclass(frozen=True)
class Surroundings:
    """By default those of this process."""

    environ: Mapping[str, str] = dataclasses.field(default_factory=lambda: dict(os.environ))
    #: Relative names start here; also `%v`.
    cwd: Path = dataclasses.field(default_factory=Path.cwd)
    hostname: str = dataclasses.field(default_factory=socket.gethostname)
    cpus: int = dataclasses.field(default_factory=lambda: os.cpu_count() or 1)
    uid: int = dataclasses.field(default_factory=os.getuid)
    gid: int = dataclasses.field(default_factory=os.getgid)
    #: Seconds since the epoch, for `%t` and `%T`.
    now: float = dataclasses.field(default_factory=time.time)
    plugins: frozenset[str] = EMBEDDED_PLUGINS

    def placeholders(self) -> dict[str, str]:
        """`%h`, `%u` and the others that don't depend on the file."""
        return {
            "%": "%",
            "(": "%(",
            "[": "\033",
            "V": VERSION,
            "v": str(self.cwd),
            "h": self.hostname,
            "k": str(self.cpus),
            "t": str(int(self.now)),
            "T": str(int(self.now * 1_000_000)),
            "u": str(self.uid),
            "U": _user(self.uid),
            "g": str(self.gid),
            "G": _group(self.gid),
        }


def _user(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def _group(gid: int) -> str:
    try:
        return grp.getgrgid(gid).gr_name
    except KeyError:
        return str(gid)
