"""The tables, as steps from one version to the next.

A step only adds: tables, columns with a default, indexes. So the previous release runs on the new schema, and an
update of several hosts, or a rollback, needs no stop. A step that it can't do without says so by its `oldest`.
"""

from __future__ import annotations

import dataclasses
from typing import Final


@dataclasses.dataclass(frozen=True)
class Step:
    """Makes version `version` out of the one before."""

    version: int
    statements: tuple[str, ...]
    #: The oldest version whose code still runs on the result.
    oldest: int = 1


#: One row. `site` is part of every dispatch key, so that two stores can share a cluster; `bell` makes names of
#: channels differ between schemas.
META: Final = """
CREATE TABLE IF NOT EXISTS instar_job_schema (
    one {number} PRIMARY KEY CHECK (one = 1),
    version {number} NOT NULL,
    oldest {number} NOT NULL,
    site {text} NOT NULL
)"""

_JOB: Final = """
CREATE TABLE instar_job (
    id {serial},
    state {text} NOT NULL DEFAULT 'new',
    kind {text} NOT NULL DEFAULT '',
    work {text} NOT NULL,
    handler {text} CHECK (handler <> ''),
    pool {text} CHECK (pool <> ''),
    tag {text} CHECK (tag <> ''),
    destination {text} CHECK (destination <> ''),
    user_name {text} NOT NULL DEFAULT '',
    priority {number} NOT NULL DEFAULT 0,
    run_at {real} NOT NULL DEFAULT 0,
    max_attempts {number} NOT NULL DEFAULT 1,
    on_lost {text} NOT NULL DEFAULT 'fail',
    dedupe_key {text} UNIQUE,
    created_at {real} NOT NULL,
    cancel_requested_at {real},
    holder {text} CHECK (holder <> ''),
    epoch {number},
    attempt {number} NOT NULL DEFAULT 0,
    uncounted {number} NOT NULL DEFAULT 0,
    began_by {text},
    began_epoch {number},
    ran_at {text} NOT NULL DEFAULT '',
    runner {text} NOT NULL DEFAULT '',
    external_id {text},
    data {text},
    let_go {number} NOT NULL DEFAULT 0,
    dispatched_at {real},
    started_at {real},
    finished_at {real},
    ending {text},
    exit_code {number},
    signal {number},
    error {text} NOT NULL DEFAULT '',
    progress {text},
    result {text}
)"""

#: The latest attempt is in the job's own row, which saves a write for each job; these are the earlier ones.
_ATTEMPT: Final = """
CREATE TABLE instar_job_attempt (
    job_id {number} NOT NULL REFERENCES instar_job ON DELETE CASCADE,
    attempt {number} NOT NULL,
    began_by {text},
    began_epoch {number},
    ran_at {text} NOT NULL DEFAULT '',
    runner {text} NOT NULL DEFAULT '',
    external_id {text},
    data {text},
    let_go {number} NOT NULL DEFAULT 0,
    dispatched_at {real},
    started_at {real},
    finished_at {real},
    ending {text},
    exit_code {number},
    signal {number},
    error {text} NOT NULL DEFAULT '',
    PRIMARY KEY (job_id, attempt)
)"""

_EVENT: Final = """
CREATE TABLE instar_job_event (
    id {serial},
    job_id {number} NOT NULL REFERENCES instar_job ON DELETE CASCADE,
    at {real} NOT NULL,
    what {text} NOT NULL,
    handler {text},
    epoch {number},
    attempt {number},
    data {text} NOT NULL DEFAULT '{{}}'
)"""

#: Who has looked after jobs, and when last.
_HANDLER: Final = """
CREATE TABLE instar_job_handler (
    name {text} PRIMARY KEY,
    epoch {number} NOT NULL,
    host {text} NOT NULL,
    seen_at {real} NOT NULL
)"""

_NEW: Final = "state = 'new'"
_LIVE: Final = "state IN ('dispatching', 'queued', 'running')"

STEPS: Final = (
    Step(
        1,
        (
            _JOB,
            _ATTEMPT,
            _EVENT,
            _HANDLER,
            f"CREATE INDEX instar_job_ready ON instar_job (destination, priority DESC, id) WHERE {_NEW}",
            f"CREATE INDEX instar_job_users ON instar_job (user_name, destination, priority DESC, id) WHERE {_NEW}",
            f"CREATE INDEX instar_job_live ON instar_job (holder) WHERE {_LIVE}",
            "CREATE INDEX instar_job_ended ON instar_job (finished_at) WHERE finished_at IS NOT NULL",
            "CREATE INDEX instar_job_events ON instar_job_event (job_id, id)",
        ),
    ),
)
#: What this code was written for.
VERSION: Final = STEPS[-1].version
