"""What differs between databases, and the connections of one process to one of them."""

from __future__ import annotations

import abc
import contextlib
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, ClassVar

from instar.jobs.errors import StoreError

Values = Mapping[str, object]
Rows = list[tuple[Any, ...]]

#: Connections kept for later; more are made when more threads work at the same time, and closed afterwards.
IDLE = 4


class Bell(abc.ABC):
    """What a manager waits on: somebody has said that there may be something to do."""

    @abc.abstractmethod
    def fileno(self) -> int:
        """Readable when it rings."""

    @abc.abstractmethod
    def hush(self) -> None:
        """Take what was said so far. Raises StoreError when it will never ring again."""

    @abc.abstractmethod
    def close(self) -> None:
        """Stop listening."""


class Backend(abc.ABC):
    """A kind of database. Statements have `:name` for values and `{now}` for the database's clock."""

    #: Words of the schema: serial, text, number, real.
    types: ClassVar[Mapping[str, str]]
    #: An expression: seconds since the epoch.
    now: ClassVar[str]

    @abc.abstractmethod
    def connect(self) -> Any:
        """A connection where each statement is a transaction unless `begin` was called. Raises StoreError."""

    @abc.abstractmethod
    def execute(self, connection: Any, sql: str, values: Values) -> Rows:
        """Run a statement; its rows, none if it gives none."""

    @abc.abstractmethod
    def each(self, connection: Any, sql: str, values: Sequence[Values]) -> list[Rows]:
        """Run a statement once for each of `values`, with as little waiting in between as possible."""

    @abc.abstractmethod
    def change_each(
        self, connection: Any, change: str, where: str, values: Sequence[Values], types: Mapping[str, str], giving: str
    ) -> Rows:
        """Change jobs, each with one of `values`; the columns `giving` of those that were changed.

        `types` are words of the schema for each value, `id` among them. A value is written `:name`; nothing else has a
        colon.
        """

    def send_change_each(
        self, connection: Any, change: str, where: str, values: Sequence[Values], types: Mapping[str, str], giving: str
    ) -> Callable[[], Rows]:
        """The same, where the rows may be waited for later: they are asked for before the transaction ends."""
        rows = self.change_each(connection, change, where, values, types, giving)
        return lambda: rows

    def fenced(self, connection: Any) -> None:  # noqa: B027 - only where it saves something
        """The fence has found its table on this connection."""

    @abc.abstractmethod
    def begin(self, connection: Any) -> None:
        """Begin a transaction that writes."""

    @abc.abstractmethod
    def commit(self, connection: Any) -> None:
        """End it, so that it has happened."""

    def together(self, connection: Any) -> contextlib.AbstractContextManager[Any]:
        """While it is open, statements whose rows nobody reads need not be waited for."""
        return contextlib.nullcontext()

    @abc.abstractmethod
    def guard_schema(self, connection: Any) -> None:
        """Within a transaction: wait until nobody else changes the tables."""

    @abc.abstractmethod
    def guard_limits(self, connection: Any) -> None:
        """Within a transaction: wait until nobody else takes jobs that are counted."""

    @abc.abstractmethod
    def has_table(self, connection: Any, name: str) -> bool:
        """Whether there is such a table."""

    @abc.abstractmethod
    def explain(self, error: Exception) -> StoreError | None:
        """What an error of the driver means to people; None when it isn't one of the driver's."""

    @abc.abstractmethod
    def usable(self, connection: Any, idle: float) -> bool:
        """Whether a connection that was idle for so many seconds still works."""

    @abc.abstractmethod
    def take(self, connection: Any, change: str, where: str, values: Values, *, fair: bool, giving: str) -> Rows:
        """Change at most `:limit` waiting jobs that nobody else is taking; the columns `giving` of each.

        `where` tells which may be taken: the most urgent first, then the oldest. `fair`: those of users who have less
        running come before, and of no user more than `:grab`.
        """

    @abc.abstractmethod
    def bell(self, name: str) -> Bell:
        """The bell of a handler. Raises StoreError."""

    @abc.abstractmethod
    def ring(self, connection: Any, handlers: Iterable[str | None]) -> None:
        """Say that there may be something to do for these handlers (None: for all), once the transaction is over."""

    def after_commit(self, handlers: Iterable[str | None]) -> None:  # noqa: B027 - only where `ring` can't do it
        """Called when a transaction that has rung is over."""


class Transaction:
    """Statements that take effect together, or not at all."""

    def __init__(self, backend: Backend, connection: Any) -> None:
        self.backend = backend
        self.connection = connection
        self.rung: set[str | None] = set()

    def all(self, sql: str, **values: object) -> Rows:
        """All rows of a statement."""
        return self.backend.execute(self.connection, self._clocked(sql), values)

    def one(self, sql: str, **values: object) -> tuple[Any, ...] | None:
        """The first row, or None."""
        rows = self.all(sql, **values)
        return rows[0] if rows else None

    def each(self, sql: str, values: Sequence[Values]) -> list[Rows]:
        """The rows of a statement that is run for each of `values`."""
        return self.backend.each(self.connection, self._clocked(sql), values) if values else []

    def change_each(
        self, change: str, where: str, values: Sequence[Values], types: Mapping[str, str], giving: str = "id"
    ) -> Rows:
        """See Backend."""
        return self.send_change_each(change, where, values, types, giving)()

    def send_change_each(
        self, change: str, where: str, values: Sequence[Values], types: Mapping[str, str], giving: str = "id"
    ) -> Callable[[], Rows]:
        """See Backend."""
        if not values:
            return list
        return self.backend.send_change_each(self.connection, self._clocked(change), where, values, types, giving)

    def take(self, change: str, where: str, values: Values, *, fair: bool, giving: str) -> Rows:
        """See Backend."""
        clocked = self._clocked(change), self._clocked(where)
        return self.backend.take(self.connection, *clocked, values, fair=fair, giving=giving)

    def ring(self, *handlers: str | None) -> None:
        """Wake handlers (None: all) when the transaction is over."""
        self.rung.update(handlers)

    def _clocked(self, sql: str) -> str:
        return sql.replace("{now}", self.backend.now)


class Connections:
    """The connections of this process. Any thread may borrow one; a forked child begins without."""

    def __init__(self, backend: Backend, clock: Callable[[], float]) -> None:
        self.backend = backend
        self._clock = clock
        self._guard = threading.Lock()
        self._idle: list[tuple[Any, float]] = []
        self._pid = os.getpid()
        #: Of the parent: kept, because closing one here would close the parent's as well.
        self._inherited: list[tuple[Any, float]] = []

    @contextlib.contextmanager
    def transaction(self) -> Iterator[Transaction]:
        """Begin, then commit; roll back if the block raises. Raises StoreError."""
        # What fails is rolled back as its connection is closed.
        with self._borrowed() as connection, self.backend.together(connection):
            transaction = Transaction(self.backend, connection)
            self.backend.begin(connection)
            yield transaction
            if transaction.rung:
                self.backend.ring(connection, transaction.rung)
            self.backend.commit(connection)
        if transaction.rung:
            self.backend.after_commit(transaction.rung)

    @contextlib.contextmanager
    def alone(self) -> Iterator[Transaction]:
        """Each statement is a transaction of its own. Raises StoreError."""
        with self._borrowed() as connection:
            yield Transaction(self.backend, connection)

    def close(self) -> None:
        """Close what is idle. The next use connects again."""
        with self._guard:
            idle, self._idle = self._idle, []
        for connection, _ in idle:
            connection.close()

    @contextlib.contextmanager
    def _borrowed(self) -> Iterator[Any]:
        connection = self._take()
        try:
            yield connection
        except BaseException as error:
            # A connection on which something failed may be in any state; another one is cheap.
            with contextlib.suppress(Exception):
                connection.close()
            explained = self.backend.explain(error) if isinstance(error, Exception) else None
            if explained is None:
                raise
            raise explained from error
        self._give(connection)

    def _take(self) -> Any:
        self._check_fork()
        while True:
            with self._guard:
                if not self._idle:
                    break
                connection, since = self._idle.pop()
            if self.backend.usable(connection, self._clock() - since):
                return connection
            with contextlib.suppress(Exception):
                connection.close()
        return self.backend.connect()

    def _give(self, connection: Any) -> None:
        with self._guard:
            if len(self._idle) < IDLE and self._pid == os.getpid():
                self._idle.append((connection, self._clock()))
                return
        connection.close()

    def _check_fork(self) -> None:
        if self._pid == os.getpid():
            return
        # The lock may have been held by a thread that doesn't exist here.
        self._guard = threading.Lock()
        self._inherited, self._idle = [*self._inherited, *self._idle], []
        self._pid = os.getpid()
