"""What earlier releases wrote, and what later ones may send, is understood (CONTRIBUTING.md, "Compatibility")."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from instar.runtime import channel
from instar.runtime.spec import GenerationSpec
from instar.supervisor.journal import Journal
from instar.supervisor.logrecord import LogRecord
from instar.supervisor.logstore import LogStore
from instar.supervisor.output import OutputFollower
from instar.system import System

RELEASES = sorted((Path(__file__).parents[1] / "compat").iterdir())


@pytest.fixture(params=RELEASES, ids=lambda path: path.name)
def samples(request: pytest.FixtureRequest) -> Path:
    return request.param


def test_spec(samples: Path) -> None:
    spec = GenerationSpec.from_json((samples / "spec.json").read_text())
    assert (spec.generation, spec.app_name, spec.options.threads) == (3, "shop", 4)
    assert spec.listeners[0].fds == (5, 6)
    assert spec.static[0].root == "/srv/shop/static"


def test_spec_with_fields_of_a_later_release(samples: Path) -> None:
    raw = json.loads((samples / "spec.json").read_text())
    raw["later"] = raw["options"]["later"] = raw["listeners"][0]["later"] = 1
    assert GenerationSpec.from_json(json.dumps(raw)).generation == 3


def test_log_store(samples: Path, tmp_path: Path) -> None:
    shutil.copy(samples / "instar.jsonl", tmp_path)
    assert [record.text for record in LogStore(tmp_path).tail(9)] == ["hello", "restart: done"]
    later = {"time": 1.0, "generation": 1, "role": "web.1", "text": "x", "later": True}
    assert LogRecord.from_dict(later).text == "x"


def test_messages(samples: Path) -> None:
    lines = (samples / "messages.jsonl").read_text().splitlines()
    for line in lines:
        message = channel.decode(line.encode())
        assert message is not None, line
        # Nothing that the older release said is lost on the newer one.
        assert json.loads(channel.encode(message)).items() >= json.loads(line).items()
        assert channel.decode(json.dumps({**json.loads(line), "later": 1}).encode()) == message


def test_journal(samples: Path, tmp_path: Path) -> None:
    shutil.copy(samples / "journal.jsonl", tmp_path)
    journal = Journal(tmp_path / "journal.jsonl", System())
    assert journal.last_generation() == 1
    assert [(entry["kind"], entry["outcome"]) for entry in journal.history(9)] == [("boot", "done")]
    journal.write("start", pid=1)
    assert json.loads((tmp_path / "journal.jsonl").read_text().splitlines()[-1])["seq"] == 7


def test_offsets(samples: Path, tmp_path: Path) -> None:
    """The saved offset is used for the file with the saved inode, whatever else stands beside it."""
    output = tmp_path / "output/g3/web.1.out"
    output.parent.mkdir(parents=True)
    output.write_bytes(b"seen before\nnew\n")
    raw = json.loads((samples / "offsets.json").read_text())
    raw["files"]["g3/web.1.out"] |= {"inode": output.stat().st_ino, "later": 1}
    state = tmp_path / "offsets.json"
    state.write_text(json.dumps(raw))
    records: list[LogRecord] = []
    OutputFollower(tmp_path / "output", records.append, state=state).poll_once()
    assert [record.text for record in records] == ["new"]
