"""A configuration as JSON and back: what a generation was booted with outlives the supervisor that read it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import ValidationError

from instar.config.extension import Extension
from instar.config.model import Config
from instar.errors import ConfigError


def dump(config: Config) -> dict[str, Any]:
    """All of it, as JSON knows it. It may hold secrets (`[app] env`)."""
    more = config.extension
    return {
        "tables": config.model_dump(mode="json"),
        "source": str(config.source) if config.source else None,
        "state_dir": str(config._state_dir) if config._state_dir else None,
        "notes": list(config._notes),
        "extension": {"target": more.target, "data": more.data, "queues": list(more.queues)} if more else None,
    }


def restore(raw: dict[str, Any]) -> Config:
    """What `dump` made. Keys that this release does not know any more are left out. Raises ConfigError."""
    tables = raw["tables"]
    try:
        config = Config.model_validate(tables)
    except ValidationError as error:
        for detail in error.errors(include_url=False, include_input=False):
            if detail["type"] == "extra_forbidden":
                _remove(tables, detail["loc"])
        try:
            config = Config.model_validate(tables)
        except ValidationError as still:
            places = ", ".join(".".join(map(str, item["loc"])) for item in still.errors(include_url=False))
            raise ConfigError(f"cannot read a saved configuration: {places} has no meaning for this release") from None
    config._source = Path(raw["source"]) if raw["source"] else None
    config._state_dir = Path(raw["state_dir"]) if raw["state_dir"] else None
    config._notes = tuple(raw["notes"])
    if more := raw["extension"]:
        config._extension = Extension(more["target"], more["data"], tuple(more["queues"]))
    return config


def _remove(tables: Any, location: tuple[int | str, ...]) -> None:
    *way, last = location
    for key in way:
        tables = tables[key]
    del tables[last]
