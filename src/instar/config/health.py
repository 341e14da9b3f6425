"""`[health]`: the question that a new generation has to answer before it gets clients."""

from __future__ import annotations

from typing import Annotated

from pydantic import BeforeValidator, WithJsonSchema

from instar.config.table import Table, setting
from instar.config.types import AtLeastOne, Duration, Period, Status, Text, UrlPath


def _headers(value: object) -> object:
    if not isinstance(value, dict):
        raise ValueError("must be a table of headers")
    for name, text in value.items():
        if not isinstance(text, str):
            raise ValueError(f"needs a text for {name}")
        if any(mark in f"{name}{text}" for mark in "\r\n\0") or ":" in name or " " in name:
            raise ValueError(f"has a header that HTTP does not allow: {name!r}")
    return value


Headers = Annotated[
    dict[str, str],
    BeforeValidator(_headers),
    WithJsonSchema({"type": "object", "additionalProperties": {"type": "string"}}),
]


class Health(Table):
    """The probe, through the public address: once for each worker; each with a socket of its own has to answer."""

    path: UrlPath = setting("/", "Path (and query) of the probe's GET request.", unit="URL path", example="/healthz")
    status: Status = setting(
        "200-399",
        "Status codes that count as healthy: a code, a range, or a list of both.",
        unit="status codes",
        example=[200, "301-302"],
    )
    timeout: Period = setting(5.0, "Time for one answer.", unit="seconds")
    interval: Duration = setting(0.2, "Pause before the next attempt.", unit="seconds")
    successes: AtLeastOne = setting(1, "Good answers in a row that each worker must give.", unit="count")
    host: Text = setting("localhost", "`Host` header of the probe; the application must accept it.", unit="host name")
    headers: Headers = setting(
        {}, "More headers of the probe.", unit="table of texts", repr=False, example={"X-Forwarded-Proto": "https"}
    )
