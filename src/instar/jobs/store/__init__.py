"""Where jobs are kept: one store, on SQLite or PostgreSQL."""

from instar.jobs.store.store import JobStore

__all__ = ["JobStore"]
