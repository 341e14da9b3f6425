from __future__ import annotations

import json
import tomllib
from pathlib import Path

from instar.config import docs, json_schema
from instar.config.docs import extra, tables
from instar.config.hook import Hook
from instar.config.messages import table_of
from instar.config.model import Config

ROOT = Path(__file__).parents[3]


def test_the_committed_file_is_current() -> None:
    committed = (ROOT / "docs/configuration.md").read_text(encoding="utf-8")
    assert committed == docs.render(), "run: python -m instar.config.docs docs/configuration.md"


def test_every_field_is_described() -> None:
    for path, table in [("", Config), *tables(Config), ("hook", Hook)]:
        assert table.__doc__, path
        for name, field in table.model_fields.items():
            assert field.description, f"{path}.{name}"
            assert field.description.endswith("."), f"{path}.{name}"
            assert extra(field).get("unit"), f"{path}.{name}"
            assert f"| `{name}` |" in docs.render() or table_of(field.annotation)[0]


def test_the_example_is_valid() -> None:
    example = docs.render().partition("```toml\n")[2].partition("```")[0]
    Config.model_validate(tomllib.loads(example))


def test_the_examples_of_fields_are_valid() -> None:
    for path, table in tables(Config):
        for name, field in table.model_fields.items():
            for example in extra(field).get("examples", []):
                raw = {"command": ["x"]} if path == "services.NAME" else {}
                table.model_validate({**raw, name: example})


def test_schema_is_json_and_knows_every_table_and_key() -> None:
    schema = json.loads(json.dumps(json_schema()))
    assert schema["additionalProperties"] is False
    assert set(schema["properties"]) == set(Config.model_fields)
    web = schema["$defs"]["Web"]
    assert web["properties"]["workers"]["type"] == "integer"
    assert web["properties"]["workers"]["description"]
    assert set(web["properties"]["engine"]["enum"]) == {"granian", "uvicorn", "gunicorn", "uwsgi", "command"}
    hooks = schema["$defs"]["Restart"]["properties"]["before"]["items"]["anyOf"]
    assert {"$ref": "#/$defs/Hook"} in hooks
    assert schema["$defs"]["HandlerPool"]["properties"]["handover"]["enum"] == ["auto", "warm", "cold"]
