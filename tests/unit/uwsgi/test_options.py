"""The table of uWSGI's options."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from instar.config.formats.uwsgi.known import known_options, nearest_name
from instar.config.model import Config
from instar.config.table import Table
from instar.uwsgi import docs
from instar.uwsgi.options import groups, meaning

ROOT = Path(__file__).parents[3]
RECIPE = Path(__file__).parents[1] / "uwsgi_config/fixtures"

#: The eighty that files in the wild have most often, most frequent first.
FREQUENT = """
master processes module buffer-size chdir socket enable-threads harakiri uid vacuum gid threads die-on-term
max-requests pythonpath chmod-socket need-app disable-logging http single-interpreter wsgi-file plugin
virtualenv callable manage-script-name mount env static-map lazy-apps no-orphans reload-mercy http-socket
logger plugins offload-threads endif thunder-lock workers max-worker-lifetime strict pidfile
worker-reload-mercy add-header http-timeout gevent procname-prefix-spaced listen reload-on-rss log-format
log-5xx py-auto-reload touch-reload req-logger auto-procname socket-timeout wsgi-disable-file-wrapper protocol
stats master-fifo if-env plugins-dir http-keepalive http-auto-chunked log-4xx https memory-report
harakiri-verbose home ignore-sigpipe ignore-write-errors show-config if-not-env py-call-osafterfork
catch-exceptions log-maxsize if-exists hook-accepting1-once zerg
"""


def named(name: str) -> bool:
    """Whether the table has the name itself, or a family of it."""
    return any(
        name == other or (other.endswith("*") and name.startswith(other[:-1]))
        for group in groups()
        for row in group.rows
        for other in row.names
    )


def test_frequent_options_are_in_the_table() -> None:
    assert [name for name in FREQUENT.split() if not named(name)] == []


@pytest.mark.parametrize("file", sorted(RECIPE.glob("*.yml")), ids=lambda file: file.name)
def test_the_recipe_is_in_the_table(file: Path) -> None:
    names = re.findall(r"^  ([a-z0-9-]+):", file.read_text().partition("\ngalaxy:")[0], re.MULTILINE)
    assert names
    assert [name for name in names if not named(name)] == []


def test_every_option_of_uwsgi_has_a_meaning() -> None:
    assert [name for name in known_options() if meaning(name).effect == "unknown"] == []


def test_every_name_in_the_table_is_an_option() -> None:
    names = [name for group in groups() for row in group.rows for name in row.names]
    assert [name for name in names if name.endswith("*") and not _family(name[:-1])] == []
    # The two words of the language that are no options.
    assert {name for name in names if not name.endswith("*")} - known_options().keys() == {"end", "else"}
    assert len(names) == len(set(names))


def _family(prefix: str) -> bool:
    return any(name.startswith(prefix) for name in known_options())


def test_the_page_is_current() -> None:
    page = ROOT / "docs/uwsgi-options.md"
    assert page.read_text(encoding="utf-8") == docs.render(), "run: make reference"


def test_every_row_is_complete() -> None:
    for group in groups():
        for row in group.rows:
            assert row.effect in ("kept", "built-in", "ignored", "unsupported", "refused", "language"), row
            assert row.text, row
            assert not row.text.endswith("."), row


def test_every_setting_exists() -> None:
    for group in groups():
        for row in group.rows:
            if row.key:
                _find(Config, row.key.split("."))


def _find(table: type[Table], keys: list[str]) -> None:
    from instar.config.messages import table_of

    field = table.model_fields[keys[0]]
    inner, named = table_of(field.annotation)
    rest = keys[2:] if named else keys[1:]
    if rest:
        assert inner is not None, keys
        _find(inner, rest)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("py-callos-afterfork", "did you mean py-call-osafterfork?"),
        ("proceses", "did you mean processes?"),
        ("static_map", "did you mean static-map?"),
        ("galaxy_root", "a variable"),
        ("project", "a variable"),
    ],
)
def test_unknown(name: str, words: str) -> None:
    assert meaning(name).effect == "unknown"
    assert words in meaning(name).text


def test_nearest_is_near() -> None:
    assert nearest_name("user") is None
    assert nearest_name("app_name") is None
