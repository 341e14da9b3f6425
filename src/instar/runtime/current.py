"""Who am I: what an application running under instar can ask about its own process."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import TypeVar

from instar.errors import InstarError
from instar.runtime.drain import DrainEvent, DrainState

Hook = TypeVar("Hook", bound=Callable[[], object])


class NotAWorkerError(InstarError):
    """This process is not an instar worker."""


@dataclasses.dataclass(frozen=True)
class Worker:
    """The web worker that runs the caller.

    `name` is unique among all processes of the application that live at one time (`main.a.1`); `index` counts
    from 1 within the generation.
    """

    name: str
    index: int
    generation: int
    #: Set as soon as the worker has to send its clients away.
    draining: DrainEvent


_current: Worker | None = None
_hooks: list[Callable[[], object]] = []


def current_worker() -> Worker:
    """The worker that this code runs in. Raises `NotAWorkerError` outside one (also at import, before the fork)."""
    if _current is None:
        raise NotAWorkerError(
            "cannot tell the current worker: this process is not an instar web worker (code that runs at import "
            "runs before the workers are forked); call it from a request, a lifespan or a thread started there"
        )
    return _current


def post_fork(hook: Hook) -> Hook:
    """Decorator: run this function in each worker right after its fork, before it serves.

    The place for what must not be shared between processes: threads, database connections, random seeds.
    """
    _hooks.append(hook)
    return hook


def set_worker(name: str, index: int, generation: int, state: DrainState) -> None:
    """Say who this process is; the runtime calls it in the forked child, before the application serves."""
    global _current
    _current = Worker(name, index, generation, state.event)


def run_post_fork_hooks() -> None:
    """Run what `post_fork` registered, in that order; the runtime calls it in the forked child."""
    for hook in _hooks:
        hook()
