"""The extension of a generation: carried by the spec, made once, never in the way of a process's end."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from instar.config import Extension, load
from instar.errors import InstarError
from instar.runtime import extension
from instar.runtime.spec import ExtensionSpec, GenerationSpec

SPEC = Path(__file__).parents[2] / "compat/0.1.0/spec.json"


class Recorder(extension.Extension):
    """Remembers what it was told, and fails at the exit."""

    def at_exit(self):
        self.ask(extension.RELOAD)
        raise RuntimeError("boom")


def spec_with(target: str) -> GenerationSpec:
    raw = json.loads(SPEC.read_text()) | {"extension": {"target": target, "data": {"a": [["k", "v"]]}, "later": 1}}
    return GenerationSpec.from_json(json.dumps(raw))


@pytest.fixture(autouse=True)
def _nothing_stays(monkeypatch):
    monkeypatch.setattr(extension, "_current", None)


def test_the_spec_carries_it_as_it_is():
    spec = spec_with("x:Y")
    assert spec.extension == ExtensionSpec("x:Y", {"a": [["k", "v"]]})
    assert GenerationSpec.from_json(spec.to_json()) == spec


def test_without_one_nothing_happens():
    spec = GenerationSpec.from_json(SPEC.read_text())
    made = extension.install(spec, None, lambda _: None)
    assert type(made) is extension.Extension
    assert extension.get() is made
    extension.run_at_exit()


def test_what_it_asks_for_goes_to_the_zygote_and_its_error_does_not_get_out(capsys):
    said = []
    extension.install(spec_with(f"{__name__}:Recorder"), None, said.append)
    extension.run_at_exit()
    assert [json.loads(item) for item in said] == [{"event": "ask", "what": "reload"}]
    assert "boom" in capsys.readouterr().err


def test_a_wrong_name_is_a_sentence():
    with pytest.raises(InstarError, match="cannot load the extension nosuch:Thing"):
        extension.install(spec_with("nosuch:Thing"), None, lambda _: None)


def test_a_configuration_keeps_its_extension_and_has_its_queues(tmp_path):
    (tmp_path / "instar.toml").write_text('[app]\ntarget = "a:b"\n[handlers.p]\ntarget = "a:c"\n')
    config = load(tmp_path / "instar.toml").extended(Extension("x:Y", {"n": 1}, ("common",)))
    assert config.pinned().extension == Extension("x:Y", {"n": 1}, ("common",))
    assert config.queue_names() == ["p", "main.p.1", "common"]
