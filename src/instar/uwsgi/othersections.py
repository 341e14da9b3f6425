"""Sections of the same files that aren't uWSGI's: the application's own, and instar's."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from instar.config.formats.uwsgi import Surroundings, UwsgiConfig, xml
from instar.config.formats.uwsgi.parsed import Source
from instar.config.formats.uwsgi.reader import SUFFIXES
from instar.errors import ConfigError

#: Options of the section `uwsgi` itself that are meant for instar.
PREFIX = "instar."


def other_section(config: UwsgiConfig, name: str, surroundings: Surroundings) -> dict[str, str]:
    """The keys of a section, of all files that options come from; the first file that has a key counts."""
    found: dict[str, str] = {}
    for path in _files(config, surroundings):
        for key, value in _read(path, name).items():
            found.setdefault(key, value)
    return found


def _files(config: UwsgiConfig, surroundings: Surroundings) -> Iterator[Path]:
    """Files that options come from."""
    for name in dict.fromkeys(option.place.file for option in config if option.place.file):
        if Path(name).suffix in SUFFIXES:
            yield surroundings.cwd / name


def native_settings(config: UwsgiConfig, surroundings: Surroundings) -> dict[str, Any]:
    """Settings of instar that a section `instar` of the files has (uWSGI reads no other section than its own), or
    `--set instar.KEY=VALUE`: dotted keys of `instar.toml` and their values."""
    section: dict[str, Any] = {}
    for path in _files(config, surroundings):
        for key, value in _settings(path).items():
            section.setdefault(key, value)
    given = {option.key.removeprefix(PREFIX): option.value for option in config if option.key.startswith(PREFIX)}
    return section | {key: _value(text) for key, text in given.items()}


def _settings(path: Path) -> dict[str, Any]:
    """The section `instar`, with nested tables as dotted keys where the format has them."""
    try:
        text = path.read_text(encoding="utf-8")
        tree = yaml.safe_load(text) if path.suffix in (".yml", ".yaml") else json.loads(text)
    except (OSError, ValueError, RecursionError, yaml.YAMLError):
        # INI, or what only uWSGI can read.
        return {key: _value(text) for key, text in _read(path, "instar").items()}
    section = tree.get("instar") if isinstance(tree, dict) else None
    return dict(_flat((), section)) if isinstance(section, dict) else {}


def _flat(path: tuple[str, ...], table: dict[Any, Any]) -> Iterator[tuple[str, Any]]:
    for key, value in table.items():
        if isinstance(value, dict) and not _is_leaf((*path, str(key))):
            yield from _flat((*path, str(key)), value)
        else:
            yield ".".join((*path, str(key))), value


def _is_leaf(path: tuple[str, ...]) -> bool:
    """Whether this is a table whose keys are the user's, such as `web.static`."""
    return ".".join(path) in ("app.env", "web.static", "health.headers")


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
