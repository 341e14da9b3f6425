"""The epoch of a name: a number that only grows, kept in the locked file."""

from __future__ import annotations

import functools
import os
import re
from pathlib import Path
from typing import Final, NamedTuple

from instar.handlers.errors import LockError

#: Added instead of 1 after a reboot: the file is written without fsync, so the last epochs of the boot before may
#: be lost with the power, though somebody outside has seen them.
REBOOT_JUMP: Final = 1_000_000
_RECORD: Final = re.compile(rb"instar-epoch (\d{20}) ([\x20-\x7e]{36})\n")
_SIZE: Final = 13 + 20 + 1 + 36 + 1


class Record(NamedTuple):
    """What the file says."""

    epoch: int
    boot_id: str


@functools.lru_cache(maxsize=1)
def boot_id() -> str:
    """Id of this boot of the kernel (random(4))."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def read(fd: int) -> Record | None:
    """The record, or None if the file has none (new, torn, or damaged)."""
    found = _RECORD.fullmatch(os.pread(fd, _SIZE + 1, 0))
    return Record(int(found[1]), found[2].decode().rstrip()) if found else None


def write(fd: int, record: Record) -> None:
    """Write the record over the old one. Raises LockError. Only for the holder of the lock.

    One write of fixed width within one disk sector: a reader or a crash sees the old one or the new one.
    """
    data = b"instar-epoch %020d %s\n" % (record.epoch, record.boot_id.encode().ljust(36)[:36])
    try:
        written = os.pwrite(fd, data, 0)
    except OSError as error:
        raise LockError(f"cannot write the epoch of a handler: {error.strerror}") from error
    if written != len(data):
        raise LockError(f"cannot write the epoch of a handler: only {written} of {len(data)} bytes; is the disk full?")


def following(record: Record | None, boot: str) -> int:
    """The epoch after the one in the file. Without a record it is 1; then the store corrects it at the first fence."""
    if record is None:
        return 1
    return record.epoch + (1 if record.boot_id == boot else REBOOT_JUMP)


def sync_new(fd: int, folder: Path) -> None:
    """Bring a file that has just got its first record to the disk, once: later ones overwrite it in place."""
    os.fsync(fd)
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
