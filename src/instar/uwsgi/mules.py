"""Mules and farms as named handlers, with the names that Galaxy gives them."""

from __future__ import annotations

import re
from pathlib import Path

from instar.config.formats.uwsgi import UwsgiConfig
from instar.config.formats.uwsgi.values import integer
from instar.config.types import NAME_PATTERN
from instar.errors import ConfigError
from instar.uwsgi.model import Farm, Mule

#: Pool of mules outside farms.
LONERS = "mule"
MOST_MULES = 1000


def mules_and_farms(config: UwsgiConfig, *, server_name: str, base: Path) -> tuple[tuple[Mule, ...], tuple[Farm, ...]]:
    """Mules in the order of their numbers, farms in that of the options.

    A mule's name is `{server_name}.{farm}.{place in it}` by the first farm that has it, else
    `{server_name}.mule.{number}`. Raises ConfigError.
    """
    works = _works(config)
    farms = tuple(_farm(value, len(works)) for value in config.texts("farm"))
    names = _names(farms, len(works), server_name)
    mules = []
    for number, work in enumerate(works, 1):
        pool, name = names[number]
        script = base / work if work.endswith(".py") else None
        target = work if script is None and ":" in work else ""
        member = tuple(farm.name for farm in farms if number in farm.mules)
        mules.append(Mule(number, name, pool, script, target, member))
    return tuple(mules), farms


def _works(config: UwsgiConfig) -> list[str]:
    """What each mule runs; nothing, or a word that is neither file nor function: it waits for signals and messages."""
    works: list[str] = []
    for option in config.all("mule", "mules"):
        works += [option.value] if option.key == "mule" else [""] * min(integer(option.value), MOST_MULES + 1)
    if len(works) > MOST_MULES:
        raise ConfigError(f"cannot start more than {MOST_MULES} mules")
    return works


def _farm(value: str, count: int) -> Farm:
    name, colon, numbers = value.partition(":")
    if not colon or not re.fullmatch(NAME_PATTERN, name):
        raise ConfigError(f"cannot use farm = {value}: it needs the form NAME:1,2; a name has letters, digits, - and _")
    members = tuple(integer(number) for number in numbers.split(",") if number.strip())
    unknown = [number for number in members if not 1 <= number <= count]
    if unknown:
        raise ConfigError(f"cannot use farm = {value}: there is no mule {unknown[0]}, only {count}; count from 1")
    return Farm(name, tuple(dict.fromkeys(members)))


def _names(farms: tuple[Farm, ...], count: int, server_name: str) -> dict[int, tuple[str, str]]:
    names = {number: (LONERS, f"{server_name}.{LONERS}.{number}") for number in range(1, count + 1)}
    for farm in reversed(farms):
        for index, number in enumerate(farm.mules, 1):
            names[number] = (farm.name, f"{server_name}.{farm.name}.{index}")
    return names
