"""Calls the callable of a job, and says how that went."""

from __future__ import annotations

import asyncio
import dataclasses
import importlib
import inspect
import json
import traceback
from collections.abc import Coroutine, Mapping, Sequence
from typing import Any

from instar.jobs.current import CurrentJob, HandBack, install
from instar.jobs.errors import JobError


class Cancelled(BaseException):
    """Raised inside a callable that is to end, where it can be."""


@dataclasses.dataclass(frozen=True)
class Done:
    """How a call went."""

    result: Any = None
    #: `ValueError: no such file`; empty when it returned.
    error: str = ""
    #: The whole traceback, for the log.
    trace: str = ""
    handed_back: bool = False


def perform(
    job: CurrentJob, target: str, args: Sequence[Any], kwargs: Mapping[str, Any], *, process: bool = False
) -> Done:
    """Call `module:function`; never raises. `process`: the whole process is the job, not only this thread."""
    install(job, process=process)
    try:
        value = _find(target)(*args, **kwargs)
        if inspect.iscoroutine(value):
            value = asyncio.run(_cancellable(value, job))
        return Done(None if value is None else json.loads(json.dumps(value)))
    except HandBack as error:
        return Done(error=str(error) or "handed back", handed_back=True)
    except (Cancelled, asyncio.CancelledError):
        return Done(error="cancelled")
    except BaseException as error:
        return Done(error=one_line(error), trace="".join(traceback.format_exception(error)))
    finally:
        job.flush()
        install(None, process=process)


def one_line(error: BaseException) -> str:
    """An exception for a list."""
    text = " ".join(str(error).split())
    if isinstance(error, JobError):
        return text
    return f"{type(error).__name__}: {text}"[:1000] if text else type(error).__name__


def _find(target: str) -> Any:
    module, _, path = target.partition(":")
    value: Any = importlib.import_module(module)
    for name in path.split("."):
        try:
            value = getattr(value, name)
        except AttributeError:
            raise JobError(f"cannot find {path!r} in {module}: check the job's target") from None
    if not callable(value):
        raise JobError(f"cannot call {target}: it is not callable ({type(value).__name__})")
    return value


async def _cancellable(work: Coroutine[Any, Any, Any], job: CurrentJob) -> Any:
    task, loop = asyncio.ensure_future(work), asyncio.get_running_loop()
    # A cancel that comes after the end meets a closed loop.
    job.on_cancel(lambda: None if loop.is_closed() else loop.call_soon_threadsafe(task.cancel))
    return await task
