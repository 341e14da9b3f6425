"""One supervisor for an address: a locked file, since SO_REUSEPORT lets processes of one uid share it in silence."""

from __future__ import annotations

import fcntl
import hashlib
import os
from pathlib import Path
from typing import Final
from urllib.parse import quote

from instar.listeners.errors import ListenError

_LONGEST_NAME: Final = 200


class AddressLock:
    """Held until `release` or the end of the process. Children that exec lose the descriptor, forked ones keep it."""

    def __init__(self, folder: Path, address: str) -> None:
        """Take the lock. Raises ListenError if another process has it."""
        self.address = address
        self.path = folder / _file_name(address)
        self._descriptor: int | None = self._acquire()

    def release(self) -> None:
        """Give it back. The file stays: whoever unlinks a lock file lets two holders in."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def _acquire(self) -> int:
        try:
            descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        except OSError as error:
            raise ListenError(f"cannot lock {self.address}: {self.path}: {error.strerror}") from error
        try:
            self._lock(descriptor)
        except BaseException:
            os.close(descriptor)
            raise
        return descriptor

    def _lock(self, descriptor: int) -> None:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            holder = os.pread(descriptor, 32, 0).decode("ascii", "replace").strip() or "unknown"
            raise ListenError(
                f"cannot listen on {self.address}: the instar supervisor with pid {holder} holds it; stop it first"
            ) from error
        if not os.path.samestat(os.fstat(descriptor), self.path.stat()):
            raise ListenError(f"cannot lock {self.address}: {self.path} was replaced meanwhile; try again")
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)


def _file_name(address: str) -> str:
    name = quote(address, safe="")
    if len(name) > _LONGEST_NAME:
        name = hashlib.sha256(address.encode()).hexdigest()
    return f"address-{name}.lock"
