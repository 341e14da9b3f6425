"""`hook-…`, `exec-…` and `touch-…` lines."""

from __future__ import annotations

import typing
from collections.abc import Iterator
from pathlib import Path

from instar.config.formats.uwsgi import Option, UwsgiConfig
from instar.errors import ConfigError
from instar.uwsgi.model import Hook, Phase, Touch

PHASES: tuple[Phase, ...] = typing.get_args(Phase)

#: What a touched file does, as a master FIFO letter or a word.
TOUCHES = {
    "touch-reload": "r",
    "fs-reload": "r",
    "touch-chain-reload": "c",
    "touch-workers-reload": "w",
    "touch-mules-reload": "mules",
    "touch-logrotate": "L",
    "touch-logreopen": "l",
}


def hooks_of(config: UwsgiConfig) -> tuple[Hook, ...]:
    """Hooks of each phase in order; `exec-…` of a phase run after its hooks. Raises ConfigError."""
    found = []
    for phase in PHASES:
        if phase != "touch":
            found += [hook(phase, option) for option in config.all(f"hook-{phase}")]
            found += [Hook(phase, "exec", option.value) for option in config.all(f"exec-{phase}")]
    return tuple(found)


def hook(phase: Phase, option: Option) -> Hook:
    """One line, `ACTION:ARGUMENT`. Raises ConfigError."""
    text = option.value.removeprefix("!")
    action, colon, argument = text.partition(":")
    if not colon:
        raise ConfigError(f"cannot read {option.place}: {option.key} needs the form ACTION:ARGUMENT")
    return Hook(phase, action, argument, secret=option.value.startswith("!"))


def touches_of(config: UwsgiConfig, base: Path) -> tuple[Touch, ...]:
    """Watched files. Raises ConfigError."""
    return tuple(_touches(config, base))


def _touches(config: UwsgiConfig, base: Path) -> Iterator[Touch]:
    for option in config:
        if option.key in TOUCHES:
            yield Touch(base / option.value, TOUCHES[option.key])
        elif option.key in ("touch-exec", "hook-touch"):
            path, blank, rest = option.value.partition(" ")
            if not blank:
                raise ConfigError(f"cannot read {option.place}: {option.key} needs the form FILE ACTION")
            yield Touch(base / path, f"exec:{rest}" if option.key == "touch-exec" else rest)
