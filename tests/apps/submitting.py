"""A WSGI application that submits a job for each request; the run of each job is a line in an append-only file."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from typing import Any
from urllib.parse import parse_qs

import instar.jobs
from instar.jobs import JobError

#: One line, by one write(2) of less than a block.
SCRIPT = 'echo "$1 $INSTAR_JOB_ID $INSTAR_JOB_ATTEMPT" >>"$2"; echo "out $1"; exit "$3"'


def app(environ: dict[str, Any], start_response: Callable[..., object]) -> Iterable[bytes]:
    """`/submit?n=NUMBER&handler=NAME&code=EXIT` answers with the job's id once it is stored."""
    status, body = "200 OK", "ok"
    if environ["PATH_INFO"] == "/submit":
        asked = {key: values[0] for key, values in parse_qs(environ["QUERY_STRING"], keep_blank_values=True).items()}
        try:
            body = str(_submit(asked["n"], asked.get("handler"), asked["code"]))
        except JobError as error:
            status, body = "503 Service Unavailable", str(error)
    data = body.encode()
    start_response(status, [("Content-Type", "text/plain"), ("Content-Length", str(len(data)))])
    return [data]


def _submit(number: str, handler: str | None, code: str) -> int:
    command = ["sh", "-c", SCRIPT, "job", number, os.environ["TEST_RUNS"], code]
    # Who got no answer asks again, and must not get a second job.
    return instar.jobs.submit(command, handler=handler, user=f"user {int(number) % 3}", dedupe_key=f"number {number}")
