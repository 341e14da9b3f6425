"""Probes every worker of a booted generation until it gives enough good answers in a row."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from instar.config import parse_address
from instar.listeners.base import Listener, Mode
from instar.supervisor.frontend import Frontend
from instar.supervisor.generation import Generation
from instar.supervisor.probe import ProbeError, ask

#: A worker that fails so many times in a row is not coming up any more.
MOST_FAILURES = 10
#: Time for the TCP handshake with our own listener.
_CONNECT_TIMEOUT = 2.0


async def probe_generation(frontend: Frontend, generation: Generation, progress: Callable[[str], None]) -> int:
    """Probe each worker through each address; returns the number of good answers. Raises ProbeError.

    With a shared socket anywhere none is: the workers accept on no socket before the cut-over, and have probed
    themselves before they reported ready.
    """
    config = generation.plan.config
    if frontend.gated:
        return 0
    answers = 0
    for bind in config.web.bind:
        listener = frontend.listeners[bind]
        if parse_address(bind).protocol == "http" and config.web.http == "2" and not config.web.tls_cert:
            progress("not probed: the workers speak only HTTP/2 without TLS")
            continue
        rows = len(frontend.used(listener, generation.slot))
        for worker in range(generation.plan.workers):
            answers += await _probe_row(listener, generation, worker % rows, rows)
            progress(f"{answers} good answers")
    return answers


async def _probe_row(listener: Listener, generation: Generation, row: int, rows: int) -> int:
    health = generation.plan.config.health
    good = bad = 0
    while good < health.successes:
        try:
            await _probe_once(listener, generation, row, rows)
            good += 1
        except ProbeError as error:
            good, bad = 0, bad + 1
            if bad >= MOST_FAILURES or generation.failure:
                raise ProbeError(f"worker {row + 1} on {listener.address}: {error}") from error
        if good < health.successes:
            await asyncio.sleep(health.interval)
    return good


async def _probe_once(listener: Listener, generation: Generation, row: int, rows: int) -> None:
    config = generation.plan.config
    try:
        sock = listener.connect_probe(generation.slot, row, _CONNECT_TIMEOUT)
    except OSError as error:
        raise ProbeError(f"cannot connect: {error}") from error
    answer = await ask(sock, config, generation.nonce, parse_address(listener.address).protocol)
    if answer.status not in config.health.status:
        raise ProbeError(
            f"{config.health.path} was answered with status {answer.status} instead of {config.health.status}"
        )
    if answer.generation is not None and answer.generation != generation.number:
        raise ProbeError(f"generation {answer.generation} answered instead of {generation.number}")
    if answer.worker is not None and listener.mode is Mode.STEERED and answer.worker % rows != row:
        raise ProbeError(f"worker {answer.worker + 1} answered on the socket of worker {row + 1}")
