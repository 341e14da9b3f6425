"""The control socket for the members of `[app] deploy_group`: one of its own, and `control/` stays closed to them."""

from __future__ import annotations

import grp
import os
import socket

from instar.errors import ConfigError, InstarError
from instar.supervisor.statedir import StateDir
from instar.system import guarded, unix_address

_BACKLOG = 64


def group_of(name: str) -> int | None:
    """The number of a group; None without a name. Raises ConfigError."""
    if not name:
        return None
    try:
        return int(name) if name.isdigit() else grp.getgrnam(name).gr_gid
    except KeyError:
        raise ConfigError(f"cannot let group {name} in: there is no such group; see [app] deploy_group") from None


def open_door(state: StateDir, gid: int) -> socket.socket:
    """A listening socket that the members of the group can connect to. Raises InstarError."""
    path = state.door
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        path.parent.mkdir(mode=0o700, exist_ok=True)
        os.chown(path.parent, -1, gid)
        path.parent.chmod(0o710)
        path.unlink(missing_ok=True)
        with unix_address(path) as address:
            sock.bind(address)
        guarded.settle_socket(path, 0o660, (-1, gid))
        sock.listen(_BACKLOG)
    except OSError as error:
        sock.close()
        raise InstarError(
            f"cannot let [app] deploy_group in at {path}: {error.strerror}; "
            "without root, the supervisor's user must be a member of the group"
        ) from error
    return sock


def close_door(state: StateDir) -> None:
    """Nobody of a group comes in any more."""
    state.door.unlink(missing_ok=True)
