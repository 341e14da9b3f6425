"""Which database an address means, and bringing its tables up to date."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

from instar.jobs.errors import StoreError
from instar.jobs.store.backend import Backend, Transaction
from instar.jobs.store.postgres import PostgreSQL
from instar.jobs.store.schema import META, STEPS, VERSION, Step
from instar.jobs.store.sqlite import SQLite


def backend_for(url: str) -> Backend:
    """The backend of `postgresql://…`, `sqlite:///PATH`, a path, or `env:NAME` for what that variable holds.

    Raises StoreError.
    """
    scheme, colon, rest = url.partition(":")
    if scheme == "env" and colon:
        if not os.environ.get(rest):
            raise StoreError(
                f"cannot open the job store: the environment variable {rest}, which has its URL, is not set"
            )
        return backend_for(os.environ[rest])
    if scheme in ("postgresql", "postgres") and colon:
        return PostgreSQL(url)
    if scheme == "sqlite" and colon:
        return SQLite(Path(rest[2:] if rest.startswith("//") else rest))
    if "://" in url or not url:
        raise StoreError(f"cannot keep jobs in {url!r}: give a file for SQLite, or postgresql://…")
    return SQLite(Path(url))


def prepare(transaction: Transaction, steps: tuple[Step, ...] = STEPS) -> str:
    """Create the tables or bring them up to date, and give the store's `site`. Raises StoreError.

    Within a transaction. A newer schema is left alone if this code may still run on it.
    """
    backend, connection = transaction.backend, transaction.connection
    version, oldest, site = 0, 0, f"i{secrets.token_hex(3)}"
    if backend.has_table(connection, "instar_job_schema"):
        version, oldest, site = _read(transaction)
    if oldest > VERSION:
        raise StoreError(
            f"cannot use the job store: its tables have version {version}, which needs an instar that knows version "
            f"{oldest}, and this one knows {VERSION}; update instar"
        )
    if version >= steps[-1].version:
        return site
    backend.guard_schema(connection)
    # Somebody else may have done it while we waited.
    if backend.has_table(connection, "instar_job_schema"):
        version, _, site = _read(transaction)
    _migrate(transaction, version, site, [step for step in steps if step.version > version])
    return site


def _read(transaction: Transaction) -> tuple[int, int, str]:
    row = transaction.one("SELECT version, oldest, site FROM instar_job_schema")
    if row is None:
        raise StoreError("cannot use the job store: its table instar_job_schema is empty")
    return row[0], row[1], row[2]


def _migrate(transaction: Transaction, version: int, site: str, steps: list[Step]) -> None:
    if not steps:
        return
    types = transaction.backend.types
    if version == 0:
        transaction.all(META.format(**types))
        transaction.all("INSERT INTO instar_job_schema VALUES (1, 0, 1, :site)", site=site)
    for step in steps:
        for statement in step.statements:
            transaction.all(statement.format(**types))
        transaction.all(
            "UPDATE instar_job_schema SET version = :version, oldest = :oldest",
            version=step.version,
            oldest=step.oldest,
        )
