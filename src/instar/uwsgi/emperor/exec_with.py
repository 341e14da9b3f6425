"""A script: becomes a program that finds descriptors from 3 on (LISTEN_FDS, sd_listen_fds(3)).

`python -I -S exec_with.py FD,FD NAME:NAME PROGRAM ARGUMENT…`. LISTEN_PID has to be the program's own pid, which nobody
knows before the fork. Standard library only: it runs before every start of a vassal that stored something.
"""

from __future__ import annotations

import fcntl
import os
import sys

_FIRST = 3
_LINK = "UWSGI_EMPEROR_FD"


def main() -> None:
    """Move the descriptors to their places, close all others, execute. Raises OSError."""
    fds, names, argv = [int(fd) for fd in sys.argv[1].split(",")], sys.argv[2], sys.argv[3:]
    end = _FIRST + len(fds)
    # First out of the way, for a source may lie where a target is.
    copies = [fcntl.fcntl(fd, fcntl.F_DUPFD, end) for fd in fds]
    old = [*fds, *copies]
    if link := os.environ.get(_LINK):
        os.environ[_LINK] = str(fcntl.fcntl(int(link), fcntl.F_DUPFD, end))
        old.append(int(link))
    for place, fd in enumerate(copies):
        os.dup2(fd, _FIRST + place)
    for fd in old:
        if fd >= end:
            os.close(fd)
    os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS=str(len(fds)), LISTEN_FDNAMES=names)
    os.execvp(argv[0], argv)  # noqa: S606


if __name__ == "__main__":
    main()
