"""Base of the tables of the configuration, and `setting`, which every field is made with."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo

from instar.config.here import current_folder


class Table(BaseModel):
    """A table of `instar.toml`: can't be changed, refuses keys that it does not know."""

    #: How the documentation calls a table that has a name of its own: `[services.NAME]`.
    entry: ClassVar[str] = "NAME"

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        # Relative default paths must be made absolute as well.
        validate_default=True,
        # A message with the input could show a secret.
        hide_input_in_errors=True,
        arbitrary_types_allowed=True,
    )


def setting(default: Any, description: str, *, unit: str, example: Any = None, **constraints: Any) -> Any:
    """A field. `unit`: what its value is, in words (`seconds`, `path`, `count`); shown in the documentation."""
    extra: dict[str, Any] = {"unit": unit}
    if example is not None:
        extra["examples"] = [example]
    return Field(default=default, description=description, json_schema_extra=extra, **constraints)


def base_folder(info: ValidationInfo) -> Path:
    """The folder that relative paths start from: that of the file, else the current one."""
    context: Mapping[str, Any] = info.context or {}
    return Path(context.get("base") or current_folder())
