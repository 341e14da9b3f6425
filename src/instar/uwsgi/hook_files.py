"""The actions of hooks that touch nothing but files, with uWSGI's names (core/hooks.c).

They also run as a program of their own, `python -m instar.uwsgi.hook_files ACTION ARGUMENT`, as the application's user.
"""

from __future__ import annotations

import grp
import os
import pwd
import stat
import sys
from collections.abc import Callable
from pathlib import Path

#: Raises OSError, ValueError for an argument of the wrong form, LookupError for an unknown user or group.
Action = Callable[[str], object]


def _two(argument: str, form: str) -> tuple[str, str]:
    first, blank, rest = argument.partition(" ")
    if not blank:
        raise ValueError(f"it needs the form {form}")
    return first, rest


def _mkdir(argument: str) -> None:
    Path(argument).mkdir(mode=0o777)


def _unlink(argument: str) -> None:
    Path(argument).unlink()


def _create(argument: str) -> None:
    _put(argument, "", os.O_TRUNC)


def _touch(argument: str) -> None:
    Path(argument).touch()


def _put(path: str, text: str, flag: int) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | flag, 0o666)
    try:
        os.write(fd, text.encode())
    finally:
        os.close(fd)


def _write(argument: str) -> None:
    path, text = _two(argument, "FILE TEXT")
    _put(path, text, os.O_TRUNC)


def _writen(argument: str) -> None:
    path, text = _two(argument, "FILE TEXT")
    _put(path, f"{text}\n", os.O_TRUNC)


def _append(argument: str) -> None:
    path, text = _two(argument, "FILE TEXT")
    _put(path, text, os.O_APPEND)


def _appendn(argument: str) -> None:
    path, _, text = argument.partition(" ")
    _put(path, f"{text}\n", os.O_APPEND)


def _chmod(argument: str) -> None:
    path, mode = _two(argument, "FILE MODE")
    Path(path).chmod(int(mode, 8))


def _sticky(argument: str) -> None:
    path = Path(argument)
    path.chmod(stat.S_IMODE(path.stat().st_mode) | stat.S_ISVTX)


def _chown(argument: str) -> None:
    path, who = _two(argument, "FILE USER GROUP")
    user, group = _two(who, "FILE USER GROUP")
    os.chown(path, pwd.getpwnam(user).pw_uid, grp.getgrnam(group).gr_gid)


def _chown2(argument: str) -> None:
    path, who = _two(argument, "FILE UID GID")
    user, group = _two(who, "FILE UID GID")
    os.chown(path, int(user), int(group))


def _symlink(argument: str) -> None:
    target, path = _two(argument, "TARGET LINK")
    Path(path).symlink_to(target)


def _link(argument: str) -> None:
    target, path = _two(argument, "FILE LINK")
    Path(path).hardlink_to(target)


def _rename(argument: str) -> None:
    path, new = _two(argument, "FILE NEW")
    Path(path).rename(new)


ACTIONS: dict[str, Action] = {
    "mkdir": _mkdir,
    "unlink": _unlink,
    "create": _create,
    "creat": _create,
    "touch": _touch,
    "write": _write,
    "writen": _writen,
    "append": _append,
    "appendn": _appendn,
    "chmod": _chmod,
    "sticky": _sticky,
    "chown": _chown,
    "chown2": _chown2,
    "symlink": _symlink,
    "link": _link,
    "rename": _rename,
}


def reason(error: Exception) -> str:
    """Why an action failed, in words."""
    if isinstance(error, OSError):
        return (error.strerror or str(error)).lower()
    return str(error.args[0]) if error.args else type(error).__name__


def main(arguments: list[str]) -> int:
    """One action; its error goes to standard error."""
    name, argument = arguments
    try:
        ACTIONS[name](argument)
    except (OSError, ValueError, LookupError) as error:
        print(reason(error), file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
