"""Checks whether the bind addresses are free."""

from __future__ import annotations

import errno
import os
import socket
import stat
from collections.abc import Iterator
from pathlib import Path

from instar.cli._findings import Finding, error, ok, skipped, warning
from instar.config import Address, Config
from instar.config.address import MAX_UNIX_PATH
from instar.system import unix_address

_TIMEOUT = 1.0


def supervisor_lives(state_dir: Path) -> bool:
    """Whether a supervisor of this application answers at its control socket."""
    return _answers(state_dir / "control/control.sock")


def check_ports(config: Config) -> Iterator[Finding]:
    """One finding for each bind address."""
    live = supervisor_lives(config.state_dir())
    for address in config.web.addresses:
        subject = f"bind {address}"
        if live:
            yield skipped(subject, f'not tried, because "{config.app.name}" is running and may hold it')
        elif address.kind == "unix":
            yield _unix(subject, Path(address.path))
        else:
            yield _tcp(subject, address)


def _tcp(subject: str, address: Address) -> Finding:
    try:
        found = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (socket.gaierror, UnicodeError):
        return error(subject, f"cannot find the host {address.host}; check its spelling, or write an address")
    family, kind, protocol, _, target = found[0]
    with socket.socket(family, kind, protocol) as sock:
        # With SO_REUSEADDR, connections of a server that has ended don't count; listening sockets do (socket(7)).
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0 if address.wildcard else 1)
        try:
            sock.bind(target)
        except OSError as problem:
            return error(subject, _bind_reason(address, problem))
    return ok(subject, "free")


def _bind_reason(address: Address, problem: OSError) -> str:
    if problem.errno == errno.EADDRINUSE:
        return f"another program listens there; find it with `ss -ltnp 'sport = :{address.port}'`"
    if problem.errno in (errno.EACCES, errno.EPERM):
        return f"only root may use port {address.port}; take one from 1024, or start as root with [app] user"
    if problem.errno == errno.EADDRNOTAVAIL:
        return f"no network interface of this host has the address {address.host}"
    return f"cannot bind: {(problem.strerror or str(problem)).lower()}"


def _unix(subject: str, path: Path) -> Finding:
    folder = path.parent
    if not folder.is_dir():
        return error(subject, f"there is no folder {folder}")
    if not os.access(folder, os.W_OK | os.X_OK):
        return error(subject, f"cannot make a socket in {folder}: permission denied")
    if path.exists() and not stat.S_ISSOCK(path.stat().st_mode):
        return error(subject, f"{path} exists and is not a socket; remove it or choose another path")
    if _answers(path):
        return error(subject, "another program listens there")
    if len(os.fsencode(path)) > MAX_UNIX_PATH:
        return warning(subject, f"the path is longer than {MAX_UNIX_PATH} bytes, so most clients can't connect to it")
    return ok(subject, "free")


def _answers(path: Path) -> bool:
    if not path.exists():
        return False
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.settimeout(_TIMEOUT)
        try:
            with unix_address(path) as reachable:
                sock.connect(reachable)
        except (PermissionError, TimeoutError, BlockingIOError):
            return True  # somebody else's, or too busy: in any case not free
        except OSError:
            return False
    return True
