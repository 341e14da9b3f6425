"""Sections of the same files that aren't uWSGI's: the application's own, and instar's."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

from instar.config.formats.uwsgi import Surroundings, UwsgiConfig, xml
from instar.config.formats.uwsgi.parsed import Source
from instar.config.formats.uwsgi.reader import SUFFIXES
from instar.errors import ConfigError

#: Options of the section `uwsgi` itself that are meant for instar.
PREFIX = "instar."


def other_section(config: UwsgiConfig, name: str, surroundings: Surroundings) -> dict[str, str]:
    """The keys of a section, of all files that options come from; the first file that has a key counts."""
    found: dict[str, str] = {}
    for file in dict.fromkeys(option.place.file for option in config if option.place.file):
        for key, value in _read(surroundings.cwd / file, name).items():
            found.setdefault(key, value)
    return found


def native_settings(config: UwsgiConfig, surroundings: Surroundings) -> dict[str, Any]:
    """Settings of instar that a section `instar` of the files has (uWSGI reads no other section than its own), or
    `--set instar.KEY=VALUE`: dotted keys of `instar.toml` and their values."""
    section = other_section(config, "instar", surroundings)
    given = {option.key.removeprefix(PREFIX): option.value for option in config if option.key.startswith(PREFIX)}
    return {key: _value(text) for key, text in (section | given).items()}


def _value(text: str) -> Any:
    """As in TOML, where quotes around a text may be left out."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except (tomllib.TOMLDecodeError, KeyError):
        return text


def _read(path: Path, name: str) -> dict[str, str]:
    parser = SUFFIXES.get(path.suffix)
    # An XML file whose root is <uwsgi> is one section, whatever it is asked for.
    if parser is None or parser is xml.parse:
        return {}
    try:
        source = Source(path.read_text(encoding="utf-8"), name, True, lambda *_: None)
        return {pair.key: pair.value for pair in parser(source)}
    except (OSError, UnicodeDecodeError, ConfigError):
        # It is not what was asked for; uWSGI's own section has been read.
        return {}
