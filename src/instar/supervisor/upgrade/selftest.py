"""What a version of instar checks before it may take over: a child, started as the supervisor would be.

The environment variable INSTAR_SELFTEST makes `instar run` test itself instead of serving. Nothing is changed: it reads
a copy of the state. What it has found goes to a file; it ends with an error when it can't take over.
"""

from __future__ import annotations

import dataclasses
import importlib
import json
import os
import subprocess
import sys
from collections.abc import MutableMapping
from pathlib import Path
from typing import Any

from instar import OLDEST_PROTOCOL, PROTOCOL, __version__
from instar.config import Config
from instar.errors import InstarError
from instar.supervisor.upgrade.inheritance import FORMAT

VARIABLE = "INSTAR_SELFTEST"
_RESULT = "result.json"
#: All that serving needs, however late it is imported.
_NEEDED = ("instar.control.assembly", "instar.control.herald", "instar.runtime.spec")


@dataclasses.dataclass(frozen=True)
class Order:
    """What is asked, by the version that runs."""

    #: Its state directory.
    state: str
    #: Folder with a copy of the control folder's documents; the result goes there.
    copy: str
    #: The generation that serves.
    live: int
    #: The protocols that the living generations speak.
    protocols: list[int]
    #: Of the inheritance.
    format: int = FORMAT

    def environment(self) -> dict[str, str]:
        """For the child."""
        return {VARIABLE: json.dumps(dataclasses.asdict(self))}

    @classmethod
    def take(cls, environ: MutableMapping[str, str] | None = None) -> Order | None:
        """The order that we were started with, if any. Raises InstarError."""
        environ = os.environ if environ is None else environ
        text = environ.pop(VARIABLE, "")
        if not text:
            return None
        try:
            raw = json.loads(text)
            return cls(**{field.name: raw[field.name] for field in dataclasses.fields(cls)})
        except (ValueError, KeyError, TypeError) as error:
            raise InstarError(f"cannot test: {VARIABLE} can't be read ({type(error).__name__}: {error})") from error


@dataclasses.dataclass(frozen=True)
class Findings:
    """What the tested version says of itself."""

    version: str
    python: str
    #: Options of the interpreter.
    flags: list[str]
    #: How to run it with that interpreter: `-m MODULE`, or the path of a script.
    program: list[str]

    @classmethod
    def read(cls, copy: Path) -> Findings:
        """Raises InstarError when there is none: an instar that knows no self-test."""
        try:
            raw = json.loads((copy / _RESULT).read_text())
            return cls(**{field.name: raw[field.name] for field in dataclasses.fields(cls)})
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InstarError("it has no self-test, or didn't say how it went") from error


def run(order: Order, config: Config) -> int:
    """Test; the exit code. Raises InstarError."""
    _check_formats(order)
    if config.state_dir().resolve() != Path(order.state).resolve():
        raise InstarError(
            f"cannot take over: the configuration names the state directory {config.state_dir()} now, and the "
            f"supervisor runs in {order.state}; change app.name and state_dir back, or use `instar stop`"
        )
    for name in _NEEDED:
        importlib.import_module(name)
    _check_state(order)
    found = Findings(__version__, sys.executable, _flags(), program())
    Path(order.copy, _RESULT).write_text(json.dumps(dataclasses.asdict(found)))
    return 0


def _check_formats(order: Order) -> None:
    if order.format > FORMAT:
        raise InstarError(f"cannot take over: the running version hands over in format {order.format}, not {FORMAT}")
    for protocol in order.protocols:
        if not OLDEST_PROTOCOL <= protocol <= PROTOCOL:
            raise InstarError(
                f"cannot take over: a generation speaks protocol {protocol}, and instar {__version__} understands "
                f"{OLDEST_PROTOCOL} to {PROTOCOL}; upgrade by way of a version between the two"
            )


def _check_state(order: Order) -> None:
    from instar.supervisor.interrupted import decide, read_story
    from instar.supervisor.journal import check_format, read
    from instar.supervisor.record import Records

    copy = Path(order.copy)
    entries, records = read(copy / "journal.jsonl"), Records(copy)
    check_format(entries)
    numbers = records.numbers()
    for number in numbers:
        records.read(number)
    decision = decide(read_story(entries), numbers)
    if decision.live != order.live:
        raise InstarError(
            f"cannot take over: from the journal it would be generation {decision.live} that serves, "
            f"and it is {order.live}"
        )


def program() -> list[str]:
    """How this process was started, without the interpreter and without arguments."""
    spec: Any = getattr(sys.modules["__main__"], "__spec__", None)
    if spec is not None:
        return ["-m", spec.name.removesuffix(".__main__")]
    return [str(Path(sys.argv[0]).absolute())]


def _flags() -> list[str]:
    # What multiprocessing starts its children with; nothing public tells it.
    return list(subprocess._args_from_interpreter_flags())  # type: ignore[attr-defined]


def invocation() -> list[str]:
    """The command that runs this program, as whoever started it would; it may lead to a newer version by now."""
    found = program()
    if found[0] == "-m" or not os.access(found[0], os.X_OK):
        return [sys.executable, *_flags(), *found, *sys.argv[1:]]
    # The file names its interpreter itself, perhaps another one by now.
    return [*found, *sys.argv[1:]]
