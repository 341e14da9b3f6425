"""`job_conf.yml`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from instar.config.formats.job_conf.raw import Entry, Raw
from instar.errors import ConfigError


def read(text: bytes, path: Path) -> Raw:
    """The parts of the file. Raises ConfigError."""
    try:
        document = yaml.safe_load(text)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}" if mark else ""
        problem = getattr(error, "problem", None) or "it is not YAML"
        raise ConfigError(f"cannot read {path}{where}: {problem}") from None
    if document is None:
        return Raw()
    top = _table(document, "the file", path)
    handling = _table(top.pop("handling", None), "handling", path)
    execution = _table(top.pop("execution", None), "execution", path)
    raw = Raw(
        runners=_tables(top.pop("runners", None), "runners", path),
        processes=_tables(handling.pop("processes", None), "handling: processes", path),
        handling=handling,
        environments=_tables(execution.pop("environments", None), "execution: environments", path),
        execution=execution,
        tools=_list(top.pop("tools", None), "tools", path),
        limits=_list(top.pop("limits", None), "limits", path),
    )
    raw.unknown = [str(name) for name in top]
    return raw


def _table(value: object, what: str, path: Path) -> Entry:
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise ConfigError(f"cannot read {path}: {what} must be a mapping, not {type(value).__name__}")
    return {str(key): item for key, item in value.items()}


def _tables(value: object, what: str, path: Path) -> dict[str, Entry]:
    return {name: _table(item, f"{what}: {name}", path) for name, item in _table(value, what, path).items()}


def _list(value: Any, what: str, path: Path) -> list[Entry]:
    if value is None:
        return []
    if not isinstance(value, list):
        raise ConfigError(f"cannot read {path}: {what} must be a list, not {type(value).__name__}")
    return [_table(item, f"{what}, entry {number}", path) for number, item in enumerate(value, 1)]
