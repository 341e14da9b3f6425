"""The JSON Schema of `instar.toml`, for editors."""

from __future__ import annotations

from typing import Any

from instar.config.model import Config


def json_schema() -> dict[str, Any]:
    """The schema (draft 2020-12)."""
    schema = Config.model_json_schema()
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema, "title": "instar.toml"}
