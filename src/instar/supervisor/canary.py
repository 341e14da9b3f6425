"""The canary stage: some clients get the new generation early, and its errors end the handover."""

from __future__ import annotations

import asyncio
import dataclasses
import ipaddress
import math
from collections.abc import Callable

from instar.config import Config
from instar.listeners.base import Canary
from instar.runtime.scoreboard import Column
from instar.supervisor.generation import Generation

_LOOK_EVERY = 0.1


class CanaryError(Exception):
    """The new generation did badly; the message says how."""


@dataclasses.dataclass(frozen=True)
class Trial:
    """Who comes first, for how many seconds, and what ends it."""

    canary: Canary
    seconds: float
    min_requests: int
    max_error_rate: float


def trial(config: Config, asked: Canary | None, seconds: float | None) -> Trial | None:
    """What was asked for with the restart, else what is configured; None: no canary stage."""
    settings = config.restart.canary
    if asked is None and not settings.active:
        return None
    networks = tuple(ipaddress.ip_network(str(network)) for network in settings.networks)
    return Trial(
        asked or Canary(settings.share, networks),
        settings.duration if seconds is None else seconds,
        max(1, settings.min_requests),
        settings.max_error_rate,
    )


async def watch(new: Generation, trial: Trial, progress: Callable[[str], None]) -> None:
    """Return when the time is over. Raises CanaryError. Probes were counted neither as requests nor as errors."""
    loop = asyncio.get_running_loop()
    end = loop.time() + trial.seconds
    while loop.time() < end:
        if new.crashes:
            raise CanaryError(f"the canary crashed: {new.crashes[0]}")
        requests, errors = new.sum(Column.REQUESTS), new.sum(Column.ERRORS)
        if requests >= trial.min_requests and errors > requests * trial.max_error_rate:
            raise CanaryError(
                f"the canary answered {errors} of {requests} requests with a server error "
                f"(limit {trial.max_error_rate:.0%})"
            )
        progress(f"{requests} requests, {errors} errors, {max(0, math.ceil(end - loop.time()))} s left")
        await asyncio.sleep(_LOOK_EVERY)
