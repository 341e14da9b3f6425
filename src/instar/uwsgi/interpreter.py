"""What the application's interpreter can run: it comes with a site that was made for uWSGI, not for instar."""

from __future__ import annotations

import dataclasses
import subprocess
from typing import Final

from instar.config import Config
from instar.errors import ConfigError
from instar.supervisor.plan import ABI, Plan

#: The runtime inside the application's processes needs it.
OLDEST: Final = (3, 11)
#: Seconds that an interpreter may take for its answer.
_LIMIT: Final = 30.0

# Python 2 prints its version as well, and stops at the second line.
_PROGRAM = """
import sys; print("%d %d" % sys.version_info[:2]); sys.stdout.flush()
import importlib.machinery, importlib.util; print(importlib.machinery.EXTENSION_SUFFIXES[0])
print(importlib.util.find_spec(sys.argv[1]) is not None)
"""


@dataclasses.dataclass(frozen=True)
class Interpreter:
    """The answer."""

    version: tuple[int, int]
    #: It has the engine's package, or can load ours.
    has_engine: bool


def look_at(config: Config) -> Interpreter:
    """Ask the application's interpreter, as the application's user. Raises ConfigError, also when it is too old."""
    plan = Plan.of(config)
    who = plan.credentials
    try:
        done = subprocess.run(
            [str(plan.python), "-c", _PROGRAM, config.web.engine],
            cwd="/",
            env=plan.environment(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_LIMIT,
            user=who.uid,
            group=who.gid,
            extra_groups=who.groups,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ConfigError(f"cannot run {plan.python}: {error}; see virtualenv") from error
    return _understand(plan, done.stdout.splitlines(), done.stderr)


def _understand(plan: Plan, lines: list[str], errors: str) -> Interpreter:
    if not lines:
        last = errors.strip().rpartition("\n")[2]
        raise ConfigError(f"cannot run {plan.python}: it does not say its version{f' ({last})' if last else ''}")
    major, _, minor = lines[0].partition(" ")
    version = (int(major), int(minor))
    if version < OLDEST:
        raise ConfigError(
            f"cannot run the application under {plan.python}: it is Python {version[0]}.{version[1]}, and instar runs "
            f"Python {OLDEST[0]}.{OLDEST[1]} or newer; keep this application on the real uWSGI, as a vassal"
        )
    engine = plan.config.web.engine
    lent = engine == "granian" and lines[1:2] == [ABI]
    return Interpreter(version, lent or engine == "command" or lines[2:] == ["True"])
