"""Where a dance keeps its things: the restarter's configuration, and a socket to ask each of the two by.

The folder belongs to the Emperor, so that nobody can make it write elsewhere through a link; only the sockets lie in a
folder of the application's user, who has to bind them.
"""

from __future__ import annotations

import grp
import hashlib
import os
import pwd
from pathlib import Path

from instar.config.formats.uwsgi import UwsgiConfig
from instar.errors import InstarError

#: What uWSGI accepts as the path of a socket (core/socket.c, bind_to_unix).
_LONGEST_SOCKET = 102


class Backstage:
    """Paths of one vassal."""

    def __init__(self, root: Path, vassal: str) -> None:
        """`root`: of the Emperor's state directory."""
        self.folder = root / "dance" / hashlib.sha256(os.fsencode(vassal)).hexdigest()[:8]
        self.sockets = self.folder / "sockets"
        self.main = self.sockets / "main"
        self.restarter = self.sockets / "restarter"

    def prepare(self, options: UwsgiConfig) -> None:
        """Create the folders, for the user that the vassal becomes. Raises InstarError."""
        if len(os.fsencode(self.restarter)) > _LONGEST_SOCKET:
            raise InstarError(
                f"cannot have uWSGI listen on {self.restarter}: the path is longer than {_LONGEST_SOCKET} bytes; "
                "choose a shorter one with INSTAR_STATE_DIR"
            )
        uid, gid = _user(options), _group(options)
        try:
            self.folder.parent.mkdir(mode=0o711, exist_ok=True)
            self.folder.mkdir(mode=0o750, exist_ok=True)
            self.sockets.mkdir(mode=0o700, exist_ok=True)
            if os.geteuid() == 0:
                os.chown(self.folder, 0, gid)
                os.chown(self.sockets, uid, gid)
        except OSError as error:
            raise InstarError(f"cannot prepare {self.folder}: {error.strerror}") from error

    def write(self, name: str, text: str) -> Path:
        """A file that the application's group can read."""
        path = self.folder / name
        new = path.with_name(f"{name}.new")
        new.unlink(missing_ok=True)
        fd = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o640)
        with os.fdopen(fd, "w") as file:
            if os.geteuid() == 0:
                os.fchown(fd, 0, self.folder.stat().st_gid)
            file.write(text)
        new.replace(path)
        return path


def _user(options: UwsgiConfig) -> int:
    option = options.last("uid")
    try:
        return os.geteuid() if option is None else _number(option.value) or pwd.getpwnam(option.value).pw_uid
    except KeyError:
        return os.geteuid()


def _group(options: UwsgiConfig) -> int:
    option = options.last("gid")
    try:
        return os.getegid() if option is None else _number(option.value) or grp.getgrnam(option.value).gr_gid
    except KeyError:
        return os.getegid()


def _number(value: str) -> int:
    return int(value) if value.isascii() and value.isdigit() else 0
