"""A name, held: lock and epoch together, and the decision who may write to a protected database."""

from __future__ import annotations

import os
import secrets
import threading
from collections.abc import Hashable
from pathlib import Path

from instar.handlers import epoch as epochs
from instar.handlers.epoch import Record
from instar.handlers.errors import Fenced, NotActiveError
from instar.handlers.lock import NameLock
from instar.system import System


class Lease:
    """One process's claim to a name. Any thread may use it; only `take` belongs to one."""

    def __init__(
        self,
        name: str,
        path: Path,
        *,
        boot_id: str | None = None,
        owner: str | None = None,
        any_filesystem: bool = False,
    ) -> None:
        self.name = name
        self.lock = NameLock(path, any_filesystem=any_filesystem)
        #: Never used twice, by any process.
        self.owner = owner or f"{os.getpid()}-{System().start_time(os.getpid())}-{secrets.token_hex(8)}"
        self._boot_id = boot_id or epochs.boot_id()
        self._epoch: int | None = None
        self._first_record = False
        self._guard = threading.Lock()
        #: Databases that have seen this owner.
        self._stores: set[Hashable] = set()
        self._lost: str | None = None

    @property
    def epoch(self) -> int:
        """The fencing token. Raises NotActiveError before the name is taken."""
        if self._epoch is None:
            raise NotActiveError(f"cannot tell the epoch of {self.name}: it isn't active yet; call wait_active() first")
        return self._epoch

    def take(self, *, blocking: bool = True) -> bool:
        """Wait for the name, then raise its epoch. False only without `blocking`. Raises LockError."""
        return self.acquire(blocking=blocking) and bool(self.begin())

    def acquire(self, *, blocking: bool = True) -> bool:
        """The first half of `take`: the lock. Whoever doesn't want it any more can still `close` it."""
        return self.lock.acquire(blocking=blocking)

    def begin(self) -> int:
        """The second half of `take`: the epoch, which is what makes this process the holder."""
        record = epochs.read(self.lock.fd)
        epoch = epochs.following(record, self._boot_id)
        epochs.write(self.lock.fd, Record(epoch, self._boot_id))
        self._first_record = record is None
        self._epoch = epoch
        return epoch

    def settle(self) -> None:
        """Off the critical path, after `take`: make a new file durable."""
        if self._first_record:
            epochs.sync_new(self.lock.fd, self.lock.path.parent)

    def holds(self) -> bool:
        """Whether the name is still ours as far as the lock tells."""
        return self._epoch is not None and self._lost is None and self.lock.holds()

    def require(self) -> None:
        """Raises NotActiveError before the name was taken, Fenced if it is lost."""
        epoch = self.epoch
        if self._lost is None and not self.lock.holds():
            self.lose("its lock file was replaced or removed, or this is a forked child of the handler")
        if self._lost is not None:
            raise Fenced(f"cannot write as {self.name} with epoch {epoch}: {self._lost}; this process should leave")

    def lose(self, why: str) -> None:
        """Remember that the name is lost, which is for good."""
        self._lost = self._lost or why

    def claim(self, store: Hashable, stored_epoch: int, stored_owner_is_us: bool) -> int:
        """The epoch to write into a database whose row is not up to date. Raises Fenced.

        The caller has locked the row, then called `require`: nobody else can decide meanwhile. Normally our epoch is
        above the stored one. If it isn't, then a later holder has been here, or the state directory was lost and the
        epochs began anew. The lock tells the two apart, but only once for each database: whoever has written there
        and then finds a stranger has been replaced.
        """
        with self._guard:
            if stored_epoch >= self.epoch and not stored_owner_is_us:
                if store in self._stores:
                    self.lose(f"epoch {stored_epoch} has taken over")
                    self.require()
                epochs.write(self.lock.fd, Record(stored_epoch + 1, self._boot_id))
                self._epoch = stored_epoch + 1
            self._stores.add(store)
            return self.epoch

    def close(self) -> None:
        """Give up a lock that was not used (a standby that is no longer wanted), or in tests: as the kernel does."""
        self.lock.close()
