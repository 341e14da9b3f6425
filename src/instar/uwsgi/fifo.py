"""The master FIFO (`master-fifo`): bytes that anybody who may write to it sends are commands.

uWSGI opens it for reading only, and makes it anew after each writer: what is written between the two is lost, and
writers find no file or no reader for a moment. Here it is open for reading *and* writing, so that it has no end, and
it is made under another name and renamed into place, so that there is no moment without it. A digit switches at once
to the FIFO of that number; uWSGI waits until the writer has closed.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import stat
from collections.abc import Callable, Sequence
from pathlib import Path

from instar.errors import InstarError

_MOST = 65536
#: Seconds between two looks at whether the path still leads here.
_LOOK_EVERY = 1.0


class MasterFifo:
    """Owner of the descriptor of the open slot. `act` gets each letter; digits are its own."""

    def __init__(
        self,
        paths: Sequence[Path],
        act: Callable[[str], object],
        log: Callable[[str], object],
        *,
        owner: tuple[int, int] | None = None,
    ) -> None:
        """`paths`: by slot. `owner`: uid and gid of the FIFOs, if they aren't ours (-1: as they are)."""
        self._paths = tuple(paths)
        self._act = act
        self._log = log
        self._owner = owner
        self._slot = 0
        self._fd = -1
        self._watch: asyncio.Task[None] | None = None
        #: Another process has put its own FIFO at our path: nothing that is written there reaches us.
        self.stolen = False

    @property
    def path(self) -> Path | None:
        """The FIFO that is open."""
        return self._paths[self._slot] if self._fd >= 0 else None

    def open(self) -> None:
        """Open slot 0. Raises InstarError."""
        if self._paths:
            self._switch(0)
            self._watch = asyncio.create_task(self._keep_place(), name="master FIFO")

    def is_own(self, path: Path) -> bool:
        """Whether a path is that of the open slot, whoever has its place now."""
        return self.path is not None and os.path.realpath(path) == os.path.realpath(self.path)

    def command(self, text: str) -> None:
        """Obey what was written, or could have been."""
        for letter in text:
            if letter.isascii() and letter.isdigit():
                self._try_switch(int(letter))
            elif not letter.isspace():
                self._act(letter)

    def close(self) -> None:
        """Close it, and remove the path if it is still ours: uWSGI leaves it behind, for `if-exists` to find."""
        if self._watch is not None:
            self._watch.cancel()
            self._watch = None
        if self._fd >= 0:
            with contextlib.suppress(OSError):
                if self._has_place():
                    self._paths[self._slot].unlink()
            self._shut()

    # --- slots ------------------------------------------------------------------------------------

    def _try_switch(self, slot: int) -> None:
        if self._fd < 0:
            return
        # uWSGI takes the first for a number that there is not.
        slot = slot if slot < len(self._paths) else 0
        try:
            self._switch(slot)
        except InstarError as error:
            self._log(f"{error}; {self.path} stays open")

    def _switch(self, slot: int) -> None:
        path = self._paths[slot]
        fd = self._make(path)
        self._shut()
        self._fd, self._slot, self.stolen = fd, slot, False
        asyncio.get_running_loop().add_reader(fd, self._read)
        self._log(f"the master FIFO is {path}")

    def _make(self, path: Path) -> int:
        temporary = path.with_name(f".{path.name}.{os.getpid()}")
        try:
            temporary.unlink(missing_ok=True)
            os.mkfifo(temporary, 0o600)
            # O_RDWR: a FIFO with a writer never ends, so it has not to be made anew when the last writer leaves.
            fd = os.open(temporary, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOFOLLOW)
        except OSError as error:
            raise InstarError(f"cannot make the master FIFO {path}: {error.strerror}; check its folder") from error
        try:
            if self._owner:
                os.fchown(fd, *self._owner)
            temporary.rename(path)
        except OSError as error:
            os.close(fd)
            temporary.unlink(missing_ok=True)
            raise InstarError(f"cannot make the master FIFO {path}: {error.strerror}; check its folder") from error
        return fd

    def _shut(self) -> None:
        if self._fd >= 0:
            asyncio.get_running_loop().remove_reader(self._fd)
            os.close(self._fd)
            self._fd = -1

    def _read(self) -> None:
        # All of it before a digit changes the descriptor.
        chunks = []
        with contextlib.suppress(BlockingIOError):
            while chunk := os.read(self._fd, _MOST):
                chunks.append(chunk)
        self.command(b"".join(chunks).decode("latin-1"))

    # --- the path ---------------------------------------------------------------------------------

    def _has_place(self) -> bool:
        return os.path.samestat(self._paths[self._slot].stat(), os.fstat(self._fd))

    async def _keep_place(self) -> None:
        """Notice when the path is taken; put it back when it was removed."""
        while True:
            await asyncio.sleep(_LOOK_EVERY)
            try:
                stolen = not self._has_place()
            except FileNotFoundError:
                self._log(f"{self.path} was removed; it is made again")
                self._try_switch(self._slot)
                continue
            except OSError:
                continue
            if stolen and not self.stolen:
                self._log(f"another process has taken {self.path}: what is written there does not reach this one")
            self.stolen = stolen


def write(path: Path, text: str) -> bool:
    """Write to somebody's FIFO; False when nobody reads it. Raises OSError, FileNotFoundError when there is none."""
    try:
        fd = os.open(path, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        # fifo(7): opening for writing without blocking needs a reader.
        if error.errno in (errno.ENXIO, errno.ENODEV):
            return False
        raise
    try:
        if not stat.S_ISFIFO(os.fstat(fd).st_mode):
            raise OSError(errno.EINVAL, "it is no FIFO", str(path))
        os.write(fd, text.encode())
    finally:
        os.close(fd)
    return True
