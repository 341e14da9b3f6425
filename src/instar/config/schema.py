"""The JSON Schema of `instar.toml`, for editors."""

from __future__ import annotations

from typing import Any

from instar.config.hook import Hook
from instar.config.model import Config


def json_schema() -> dict[str, Any]:
    """The schema (draft 2020-12)."""
    schema = Config.model_json_schema()
    # Hooks also take shorter forms, so that the generated schema does not mention their table by itself.
    hook = Hook.model_json_schema()
    hook.pop("$defs", None)
    schema.setdefault("$defs", {})["Hook"] = hook
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema, "title": "instar.toml"}
