"""The journal survives crashes, torn lines and growth."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from instar.supervisor import journal as journal_module
from instar.supervisor.journal import Journal, read
from instar.system import System


def test_entries_are_numbered_on_over_reopening(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    first = Journal(path, System())
    first.write("boot", generation=1)
    first.close()
    second = Journal(path, System())
    second.write("boot", generation=7)
    assert [entry["seq"] for entry in read(path)] == [1, 2]
    assert second.last_generation() == 7


def test_a_torn_line_hides_neither_what_was_before_nor_what_comes_after(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    first = Journal(path, System())
    first.write("boot", generation=1)
    first.close()
    with path.open("a") as file:
        file.write('{"seq": 2, "op": "swi')
    second = Journal(path, System())
    second.write("switch", generation=2)
    assert [entry["op"] for entry in read(path)] == ["boot", "switch"]


def test_history_is_the_last_results(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal.jsonl", System())
    for number in range(5):
        journal.write("boot", generation=number)
        journal.write("result", generation=number, outcome="done")
    assert [entry["generation"] for entry in journal.history(3)] == [2, 3, 4]


def test_a_large_journal_keeps_the_results_when_it_is_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal_module, "_COMPACT_ABOVE", 1000)
    monkeypatch.setattr(journal_module, "_KEEP", 4)
    path = tmp_path / "journal.jsonl"
    journal = Journal(path, System())
    for number in range(50):
        journal.write("boot", generation=number)
        journal.write("result", generation=number, outcome="done")
    journal.close()
    opened = Journal(path, System())
    # The history, and the latest of everything: the next supervisor goes by it.
    assert [entry["generation"] for entry in opened.history(10)] == [46, 47, 48, 49]
    assert [(entry["op"], entry["generation"]) for entry in read(path)][-4:] == [
        ("boot", 48),
        ("result", 48),
        ("boot", 49),
        ("result", 49),
    ]
    opened.write("boot", generation=50)
    assert read(path)[-1]["seq"] == 101


class FullDisk(System):
    def append(self, fd: int, data: bytes) -> None:
        raise OSError(28, "No space left on device")


def test_a_full_disk_is_told_to_the_caller(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal.jsonl", FullDisk())
    with pytest.raises(OSError, match="No space"):
        journal.write("switch", generation=1)
    assert read(tmp_path / "journal.jsonl") == []


class NearlyFullDisk(System):
    """Has room for so many bytes."""

    room = 0

    def append(self, fd: int, data: bytes) -> None:
        fits, self.room = data[: self.room], max(0, self.room - len(data))
        super().append(fd, fits)
        if fits != data:
            raise OSError(28, "No space left on device")


def test_what_has_happened_is_written_when_there_is_room_again(tmp_path: Path) -> None:
    path, system = tmp_path / "journal.jsonl", NearlyFullDisk()
    system.room = 100
    journal = Journal(path, system)
    journal.write("boot", generation=1)
    # The first of them is cut short on the disk.
    journal.record("end", generation=1)
    journal.record("result", generation=1)
    assert journal.behind
    assert [entry["op"] for entry in read(path)] == ["boot"]
    assert [entry["op"] for entry in journal.history(5)] == ["result"]
    with pytest.raises(OSError, match="No space"):
        journal.write("switch", generation=2)
    system.room = 10_000
    journal.write("switch", generation=3)
    assert not journal.behind
    assert [(entry["seq"], entry["op"], entry["generation"]) for entry in read(path)] == [
        (1, "boot", 1),
        (2, "end", 1),
        (3, "result", 1),
        (4, "switch", 3),
    ]


def test_foreign_lines_are_skipped(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    path.write_text(
        json.dumps(["no", "entry"]) + "\nrubbish\n" + json.dumps({"seq": 3, "op": "stop", "time": 1}) + "\n"
    )
    assert [entry["seq"] for entry in read(path)] == [3]
