from __future__ import annotations

import asyncio
import json
import os
import time
from pathlib import Path

import pytest

from instar.supervisor import logstore
from instar.supervisor.logrecord import LogRecord
from instar.supervisor.logstore import LogStore
from instar.supervisor.outlets import QUEUE, file_outlet, formatter, stream_outlet


def record(text: str, generation: int | None = 1, role: str = "web.1") -> LogRecord:
    return LogRecord(1000.5, generation, role, text)


def texts(records: list[LogRecord]) -> list[str]:
    return [item.text for item in records]


def test_tail_gives_the_last_lines_oldest_first(tmp_path: Path) -> None:
    store = LogStore(tmp_path / "log")
    assert store.tail(5) == []
    for number in range(10):
        store.append(record(str(number)))
    assert texts(store.tail(3)) == ["7", "8", "9"]
    assert store.tail(0) == []
    assert len(store.tail(1000)) == 10
    assert (tmp_path / "log/instar.jsonl").stat().st_mode & 0o777 == 0o600


def test_tail_by_generation_and_role(tmp_path: Path) -> None:
    store = LogStore(tmp_path)
    store.append(record("a", 1, "web.1"))
    store.append(record("b", 12, "web.1"))
    store.append(record("c", 1, "zygote"))
    store.append(record('"generation":1,', 2, "web.2"))
    store.write("d")
    assert texts(store.tail(9, generation=1)) == ["a", "c"]
    assert texts(store.tail(9, role="web.1")) == ["a", "b"]
    assert texts(store.tail(9, role="web")) == ["a", "b", '"generation":1,']
    assert texts(store.tail(9, role="supervisor")) == ["d"]


def test_rotation_keeps_the_newest_lines(tmp_path: Path) -> None:
    store = LogStore(tmp_path, max_bytes=1000, backups=2)
    for number in range(200):
        store.append(record(f"line {number}"))
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["instar.jsonl", "instar.jsonl.1", "instar.jsonl.2"]
    assert all(path.stat().st_size <= 1000 for path in tmp_path.iterdir())
    kept = texts(store.tail(1000))
    assert kept == [f"line {number}" for number in range(200 - len(kept), 200)]
    assert len(kept) > 25


def test_no_backups_and_lines_larger_than_the_file(tmp_path: Path) -> None:
    store = LogStore(tmp_path, max_bytes=100, backups=0)
    for number in range(5):
        store.append(record(f"{number}" + "x" * 500))
    assert [path.name for path in tmp_path.iterdir()] == ["instar.jsonl"]
    assert texts(store.tail(9)) == ["4" + "x" * 500]


def test_tail_of_long_lines_across_blocks(tmp_path: Path) -> None:
    store = LogStore(tmp_path)
    lines = [f"{number} " + "ä" * size for number, size in enumerate([10, 70_000, 0, 40_000, 65_000])]
    for line in lines:
        store.append(record(line))
    assert texts(store.tail(9)) == lines


def test_half_a_line_of_a_crash_is_passed_over(tmp_path: Path) -> None:
    (tmp_path / "instar.jsonl").write_text('{"time":1,"generation":1,"role":"web.1","text":"a"}\n{"time":2,"gen')
    store = LogStore(tmp_path)
    store.append(record("b"))
    assert texts(store.tail(9)) == ["a", "b"]


async def test_follow_joins_past_and_future_without_a_gap(tmp_path: Path) -> None:
    store = LogStore(tmp_path)
    store.append(record("old"))
    store.append(record("past"))
    seen: list[str] = []

    async def read() -> None:
        async for item in store.follow(lines=1, role="web"):
            seen.append(item.text)
            if item.text == "end":
                return

    task = asyncio.create_task(read())
    await asyncio.sleep(0)
    store.append(record("other", role="zygote"))
    for number in range(100):
        store.append(record(str(number)))
    store.append(record("end"))
    await asyncio.wait_for(task, 5)
    assert seen == ["past", *(str(number) for number in range(100)), "end"]


async def test_follow_ends_its_subscription(tmp_path: Path) -> None:
    store = LogStore(tmp_path)
    stream = store.follow(lines=1)
    store.append(record("x"))
    assert (await anext(stream)).text == "x"
    assert len(store._followers) == 1
    await stream.aclose()  # type: ignore[attr-defined]
    assert not store._followers


async def test_a_slow_follower_is_told_what_it_missed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logstore, "FOLLOW_QUEUE", 10)
    store = LogStore(tmp_path)
    stream = store.follow(lines=1)
    store.append(record("first"))
    assert (await anext(stream)).text == "first"
    for number in range(25):
        store.append(record(str(number)))
    got = [(await anext(stream)).text for _ in range(11)]
    assert got == ["15 lines left out: the reader is too slow", *(str(number) for number in range(15, 25))]


def test_outlets_write_text_and_json(tmp_path: Path) -> None:
    store = LogStore(tmp_path / "store")
    reader, writer = os.pipe()
    store.add_outlet(stream_outlet(writer, formatter("text")))
    store.add_outlet(file_outlet(tmp_path / "app.log", formatter("json"), max_bytes=10_000, backups=1))
    store.append(record("hello"))
    store.close()
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        assert pipe.read().endswith(b" g1 web.1 | hello\n")
    line = json.loads((tmp_path / "app.log").read_text())
    assert line == {"time": 1000.5, "generation": 1, "role": "web.1", "text": "hello"}


def test_a_stuck_stdout_blocks_nobody(tmp_path: Path) -> None:
    store = LogStore(tmp_path / "store")
    reader, writer = os.pipe()  # nobody reads: the thread blocks in write(2) after 64 KiB
    stuck = stream_outlet(writer, formatter("text"))
    store.add_outlet(stuck)
    store.add_outlet(file_outlet(tmp_path / "app.log", formatter("text"), max_bytes=100_000_000, backups=1))
    started = time.monotonic()
    for number in range(QUEUE + 3000):
        store.append(record(f"{number} {'x' * 100}"))
    assert stuck.dropped > 0
    assert time.monotonic() - started < 20  # it would be forever
    assert texts(store.tail(1))[0].startswith(f"{QUEUE + 2999} ")
    store._outlets[1].close(timeout=20)
    lines = (tmp_path / "app.log").read_text().splitlines()
    assert len(lines) >= QUEUE
    os.close(reader)  # EPIPE sets the thread free
    stuck.close(timeout=20)
    os.close(writer)


def test_a_broken_stdout_is_no_error(tmp_path: Path) -> None:
    store = LogStore(tmp_path)
    reader, writer = os.pipe()
    os.close(reader)
    store.add_outlet(stream_outlet(writer, formatter("text")))
    store.append(record("a"))
    store.write("b")
    store.close()
    os.close(writer)
    assert texts(store.tail(5)) == ["a", "b"]


def test_a_full_disk_leaves_no_half_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = LogStore(tmp_path)
    store.append(record("a"))
    real = os.write
    monkeypatch.setattr("instar.supervisor.rotating.os.write", lambda fd, data: real(fd, data[:5]))
    with pytest.raises(OSError, match="No space left"):
        store.append(record("lost"))
    store.write("a message of the supervisor doesn't raise")
    monkeypatch.undo()
    store.append(record("b"))
    assert texts(store.tail(5)) == ["a", "b"]


def test_a_file_that_cannot_be_opened_is_an_error_at_once(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="Is a directory"):
        file_outlet(tmp_path, formatter("text"), max_bytes=1000, backups=1)
