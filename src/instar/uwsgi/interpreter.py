"""What the application's interpreter can run: it comes with a site that was made for uWSGI, not for instar."""

from __future__ import annotations

import dataclasses
import re
import subprocess
from typing import Final

from instar import engines
from instar.config import Config
from instar.errors import ConfigError
from instar.supervisor.plan import ABI, Plan
from instar.system import bounded

#: The runtime inside the application's processes needs it.
OLDEST: Final = (3, 11)
#: Seconds that an interpreter may take for its answer.
_LIMIT: Final = 30.0

# Python 2 prints its version as well, and stops at the second line.
_PROGRAM = """
import sys; print("instar %d %d" % sys.version_info[:2]); sys.stdout.flush()
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
    try:
        done = bounded(lambda: _ask(plan)) if plan.credentials.no_new_privs else _ask(plan)
    except OSError as error:
        raise ConfigError(
            f"cannot run {plan.python}: {(error.strerror or str(error)).lower()}; see virtualenv"
        ) from error
    except subprocess.TimeoutExpired:
        raise ConfigError(f"cannot run {plan.python}: it does not answer within {_LIMIT:g} s; see virtualenv") from None
    return _understand(plan, done.stdout.splitlines(), done.stderr)


def _ask(plan: Plan) -> subprocess.CompletedProcess[str]:
    who = plan.credentials
    return subprocess.run(
        [str(plan.python), "-c", _PROGRAM, plan.config.web.engine],
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


def _understand(plan: Plan, lines: list[str], errors: str) -> Interpreter:
    # Something of the environment's own may have printed before (sitecustomize).
    found = [number for number, line in enumerate(lines) if re.fullmatch(r"instar \d+ \d+", line)]
    if not found:
        last = errors.strip().rpartition("\n")[2]
        raise ConfigError(f"cannot run {plan.python}: it does not say its version{f' ({last})' if last else ''}")
    lines = lines[found[0] :]
    _, major, minor = lines[0].split()
    version = (int(major), int(minor))
    if version < OLDEST:
        raise ConfigError(
            f"cannot run the application under {plan.python}: it is Python {version[0]}.{version[1]}, and instar runs "
            f"Python {OLDEST[0]}.{OLDEST[1]} or newer; keep this application on the real uWSGI, as a vassal"
        )
    engine = plan.config.web.engine
    lent = engine == "granian" and lines[1:2] == [ABI]
    return Interpreter(version, lent or engine in engines.BECOME_PROGRAMS or lines[2:] == ["True"])
