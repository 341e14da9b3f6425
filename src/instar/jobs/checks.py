"""What may be submitted."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import re
from collections.abc import Iterator, Mapping
from typing import Final

from instar.jobs.errors import SubmissionError
from instar.jobs.model import OnLost, Submission

#: What a configuration writes for "anyone", as Galaxy does.
ANYONE: Final = "_null_"
_TARGET: Final = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_][\w.]*")
_WISHES: Final = ("handler", "pool", "tag", "destination")
_LONGEST_NAME: Final = 200
_LARGEST_PRIORITY: Final = 1 << 31


def anyone_is_none(handler: str | None) -> str | None:
    """The handler as it is stored: `""` and `_null_` mean anyone, which is None."""
    return None if handler in (None, "", ANYONE) else handler


def checked(submission: Submission) -> Submission:
    """The submission as it is stored. Raises SubmissionError."""
    problem = next(_problems(submission), None)
    if problem:
        raise SubmissionError(f"cannot submit the job: {problem}")
    changes: dict[str, object] = {name: anyone_is_none(getattr(submission, name)) for name in _WISHES}
    return dataclasses.replace(
        submission,
        command=tuple(map(os.fspath, submission.command)),
        args=tuple(submission.args),
        kind=submission.kind or _kind(submission),
        on_lost=OnLost(submission.on_lost),
        dedupe_key=submission.dedupe_key or None,
        **changes,  # type: ignore[arg-type]
    )


def _kind(submission: Submission) -> str:
    return submission.target or os.path.basename(submission.command[0])[:_LONGEST_NAME]  # noqa: PTH119


def _problems(given: Submission) -> Iterator[str]:
    words: object = given.command
    if isinstance(words, str | bytes):
        yield "command is one text; give a list of words (for a shell: sh -c TEXT)"
    elif bool(given.command) == bool(given.target):
        yield "give either a command or a target (module:function), and only one of them"
    yield from _command(given)
    if given.target and not _TARGET.fullmatch(given.target):
        yield f"target {given.target!r} is not like module:function"
    if given.command and (given.args or given.kwargs):
        yield "args and kwargs are for a target; the arguments of a command are part of it"
    yield from _json(given)
    yield from _numbers(given)
    for name in ("kind", "user", "dedupe_key", *_WISHES):
        value = getattr(given, name)
        if value is not None and not isinstance(value, str):
            yield f"{name} must be a text"
        elif value and (len(value) > _LONGEST_NAME or "\0" in value):
            yield f"{name} is too long, or has a zero byte: {value[:40]!r}"
    if given.on_lost not in set(OnLost):
        yield f"on_lost is {given.on_lost!r}; known are {', '.join(OnLost)}"


def _command(given: Submission) -> Iterator[str]:
    words = [*given.command, given.cwd, *given.env, *given.env.values()]
    if not all(isinstance(word, str | os.PathLike) for word in words):
        yield "command, cwd and env consist of texts"
    elif any("\0" in os.fspath(word) for word in words):
        yield "command, cwd and env can't have a zero byte"
    elif given.command and not given.command[0]:
        yield "the command is empty"
    if any("=" in str(name) or not name for name in given.env):
        yield "a name of an environment variable is empty or has a ="


def _json(given: Submission) -> Iterator[str]:
    for name in ("args", "kwargs", "params"):
        value = getattr(given, name)
        if name != "args" and not (isinstance(value, Mapping) and all(isinstance(key, str) for key in value)):
            yield f"{name} must be a mapping of texts to values"
            continue
        try:
            json.dumps(dict(value) if isinstance(value, Mapping) else value, allow_nan=False)
        except (TypeError, ValueError) as error:
            yield f"{name} can't be written as JSON: {error}"


def _numbers(given: Submission) -> Iterator[str]:
    for name in ("timeout", "kill_timeout", "backoff", "backoff_limit", "run_at"):
        value = getattr(given, name)
        if value is None and name == "run_at":
            continue
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or value < 0:
            yield f"{name} must be a number of seconds, and not negative"
    for name in ("priority", "max_attempts"):
        value = getattr(given, name)
        if isinstance(value, bool) or not isinstance(value, int) or abs(value) >= _LARGEST_PRIORITY:
            yield f"{name} must be a whole number"
    if isinstance(given.max_attempts, int) and given.max_attempts < 1:
        yield "max_attempts must be at least 1"
