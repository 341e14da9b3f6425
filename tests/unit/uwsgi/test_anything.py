"""Whatever is in a file: an instance, or a sentence that says why not."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from instar.config.formats.uwsgi import Surroundings, read
from instar.config.formats.uwsgi.known import known_options
from instar.errors import ConfigError
from instar.uwsgi.convert import convert
from instar.uwsgi.explain import by_table, explain
from instar.uwsgi.options import meaning
from instar.uwsgi.translate import Translation
from instar.uwsgi.traps import traps

KEPT = [name for name in known_options() if meaning(name).effect == "kept"]
VALUES = [
    "",
    "1",
    "-1",
    "0",
    "true",
    "99999999999999999999",
    "x",
    "x:y",
    "x:y()",
    "a.py",
    "/a=b",
    "=",
    ":",
    ":80",
    "127.0.0.1:0",
    "[::1]:80",
    "/run/x",
    "@x",
    "a:1,2",
    "exec:x",
    "!print:x",
    "é",
    "a b",
    "%(module)",
    "/s=%d",
    "a,b,c",
]
LINES = st.tuples(st.sampled_from(KEPT), st.sampled_from(VALUES)).map(" = ".join)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(LINES, max_size=8), st.sampled_from([0, 1000]))
def test_any_file(tmp_path: Path, lines: list[str], uid: int) -> None:
    (tmp_path / "site.ini").write_text("\n".join(["[uwsgi]", "module = x:app", "http = :80", *lines]))
    around = Surroundings(environ={}, cwd=tmp_path, uid=uid)
    try:
        config = read("site.ini", surroundings=around)
    except ConfigError:
        return
    translation = Translation(config, around)
    assert len(by_table(translation)) == len(config.options)
    try:
        instance = translation.instance()
    except ConfigError as error:
        assert all(line.startswith("cannot ") for line in str(error).splitlines())
        return
    assert len(explain(translation)) == len(config.options)
    assert instance.config is not None
    names = [name for pool in instance.config.handlers for name in instance.config.handler_names(pool)]
    assert sorted(names) == sorted(mule.name for mule in instance.mules)
    traps(translation)
    try:
        made = convert([translation])
    except ConfigError as error:
        # What only uWSGI's way of loading can find has no place in [app] target.
        assert translation.application is not None
        if translation.application.native:
            pytest.fail(f"it runs but can't be converted: {error}")
        return
    assert made.text.startswith("# ")
