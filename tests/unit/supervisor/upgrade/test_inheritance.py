"""What one version leaves to another: documents with numbers, and fields that may be unknown."""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path
from typing import Any

import pytest

from instar.errors import InstarError
from instar.supervisor.journal import FORMAT as JOURNAL_FORMAT
from instar.supervisor.journal import Journal, check_format
from instar.supervisor.upgrade import selftest
from instar.supervisor.upgrade.changeover import VARIABLE
from instar.supervisor.upgrade.inheritance import Inheritance
from instar.supervisor.upgrade.outcome import inherited, result, write_lost
from instar.system import System


def an_inheritance(**more: Any) -> Inheritance:
    fields = {
        "lock": -1,
        "control": -1,
        "ready": -1,
        "state": Path("/run/instar/shop"),
        "op": 7,
        "began": 100.0,
        "from_version": "1.0",
        "version": "2.0",
        "command": ["/opt/bin/instar", "run"],
        "stages": [{"stage": "self-test", "state": "done", "seconds": 2.0}],
        "limit": 30.0,
        "back": ["/usr/bin/python3", "-P", "/run/x/start.py", "run"],
        "program": ["/opt/bin/instar"],
    }
    return Inheritance(**{**fields, **more})


def test_it_travels_in_the_environment_once() -> None:
    lock, ready = os.pipe()
    os.set_inheritable(lock, True)
    try:
        given = an_inheritance(lock=lock)
        environ = {VARIABLE: given.dump()}
        assert Inheritance.take(environ) == given
        assert environ == {}
        assert not os.get_inheritable(lock)
        assert Inheritance.take(environ) is None
    finally:
        os.close(lock)
        os.close(ready)


def test_fields_of_a_later_release_are_left_out_and_a_later_format_is_refused() -> None:
    raw = json.loads(an_inheritance().dump())
    assert Inheritance.take({VARIABLE: json.dumps({**raw, "later": 1})}) == an_inheritance()
    with pytest.raises(InstarError, match="cannot take over from a newer instar"):
        Inheritance.take({VARIABLE: json.dumps({**raw, "format": 99})})
    with pytest.raises(InstarError, match="can't be read"):
        Inheritance.take({VARIABLE: "[]"})


def test_ready_is_said_once_and_closed() -> None:
    reader, writer = os.pipe()
    heir = an_inheritance(ready=writer)
    heir.confirm()
    heir.confirm()
    assert os.read(reader, 9) == b"R\n"
    assert os.read(reader, 9) == b""
    os.close(reader)


def test_the_result_says_who_runs() -> None:
    done = inherited(an_inheritance(), 3, 105.0)
    assert (done["outcome"], done["from_version"], done["to_version"], done["serving"]) == ("done", "1.0", "2.0", 3)
    assert done["stages"][-1] == {"stage": "start", "state": "done", "seconds": 3.0}
    back = inherited(an_inheritance(gave_way="failed: OSError: x"), 3, 105.0)
    assert (back["outcome"], back["error"]) == ("rolled-back", "instar 2.0 failed: OSError: x")
    assert back["stages"][-1]["state"] == "failed"


def test_an_upgrade_in_which_all_died_gets_a_result_once(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal.jsonl", System())
    ended = journal.write("upgrade", version="0.9", command="instar")
    more = result("done", None, from_version="0.9", version="1", live=1, stages=[], seconds=1.0)
    journal.write("result", kind="upgrade", began=ended, **more)
    write_lost(journal, journal.entries(), besides=None)
    assert len(journal.history(9)) == 1
    lost = journal.write("upgrade", version="1.0", command="instar")
    write_lost(journal, journal.entries(), besides=lost)
    assert len(journal.history(9)) == 1
    write_lost(journal, journal.entries(), besides=None)
    write_lost(journal, journal.entries(), besides=None)
    assert [(entry["began"], entry["outcome"]) for entry in journal.history(9)] == [(ended, "done"), (lost, "failed")]
    journal.close()


def test_a_journal_of_a_newer_format_is_not_gone_on_with(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal.jsonl", System())
    check_format(journal.entries())
    journal.write_format()
    check_format(journal.entries())
    journal.write("format", format=JOURNAL_FORMAT + 1, version="9.0")
    with pytest.raises(InstarError, match=r"cannot use the state of instar 9\.0: its format is 2"):
        check_format(journal.entries())
    journal.close()


def test_a_self_test_is_ordered_once(tmp_path: Path) -> None:
    order = selftest.Order("/run/instar/shop", str(tmp_path), 1, [1])
    environ = order.environment()
    assert selftest.Order.take(environ) == order
    assert selftest.Order.take(environ) is None
    with pytest.raises(InstarError, match="can't be read"):
        selftest.Order.take({selftest.VARIABLE: "{}"})


def test_a_version_without_self_test_is_told(tmp_path: Path) -> None:
    with pytest.raises(InstarError, match="it has no self-test"):
        selftest.Findings.read(tmp_path)
    found = selftest.Findings("2.0", "/usr/bin/python3", ["-P"], ["-m", "instar"])
    (tmp_path / "result.json").write_text(json.dumps({**dataclasses.asdict(found), "later": 1}))
    assert selftest.Findings.read(tmp_path) == found
