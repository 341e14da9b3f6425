from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from instar.supervisor import outputfile
from instar.supervisor.logrecord import LogRecord
from instar.supervisor.output import OutputFollower
from instar.supervisor.punch import skip_hole


class Rig:
    """An output folder, a follower and what it delivered."""

    def __init__(self, path: Path, **options: float) -> None:
        self.root = path / "output"
        self.state = path / "offsets.json"
        self.records: list[LogRecord] = []
        self.options = options
        self.follower = self.new_follower()

    def new_follower(self) -> OutputFollower:
        self.follower = OutputFollower(self.root, self.records.append, state=self.state, **self.options)
        return self.follower

    def write(self, data: bytes, name: str = "g1/web.1.out") -> Path:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab") as file:
            file.write(data)
        return path

    def read(self) -> list[str]:
        while self.follower.poll_once():
            pass
        texts = [record.text for record in self.records]
        self.records.clear()
        return texts


@pytest.fixture
def rig(tmp_path: Path) -> Rig:
    return Rig(tmp_path)


def test_a_folder_that_does_not_exist_yet_is_no_error(rig: Rig) -> None:
    assert rig.read() == []
    assert rig.follower.generations() == []


def test_lines_carry_generation_and_role(rig: Rig) -> None:
    rig.write(b"one\n")
    rig.write(b"two\n", "g12/zygote.out")
    rig.write(b"three\n", "services/redis.out")
    rig.write(b"no\n", "elsewhere/web.1.out")
    rig.write(b"no\n", "g1/strange name.out")
    rig.follower.poll_once()
    assert sorted((str(r.generation), r.role, r.text) for r in rig.records) == [
        ("1", "web.1", "one"),
        ("12", "zygote", "two"),
        ("None", "service.redis", "three"),
    ]
    assert rig.follower.generations() == [1, 12]


def test_a_partial_line_waits_for_its_end(rig: Rig) -> None:
    rig.write(b"first\nhalf")
    assert rig.read() == ["first"]
    rig.write(b" and half\r\n\n")
    assert rig.read() == ["half and half", ""]


def test_a_silent_partial_line_is_delivered_once(tmp_path: Path) -> None:
    rig = Rig(tmp_path, partial_after=0.0)
    rig.write(b"password: ")
    assert rig.read() == ["password: "]
    assert rig.read() == []
    rig.write(b"\nnext\n")
    assert rig.read() == ["next"]


def test_a_huge_line_is_cut_with_a_marker(rig: Rig) -> None:
    rig.write(b"a" * 1_000_000)
    [text] = rig.read()
    assert text.startswith("a" * outputfile.MAX_LINE)
    assert text.endswith(" … [instar: line cut after 65536 bytes]")
    rig.write(b"b" * 1_000_000 + b"\nnext\n")
    assert rig.read() == ["next"]


def test_a_line_of_exactly_the_limit_is_whole(rig: Rig) -> None:
    rig.write(b"a" * outputfile.MAX_LINE + b"\n")
    assert rig.read() == ["a" * outputfile.MAX_LINE]


def test_the_rest_of_a_huge_line_is_skipped_by_the_next_supervisor_too(rig: Rig) -> None:
    rig.write(b"a" * 200_000)
    assert len(rig.read()) == 1
    rig.new_follower()
    rig.write(b"rest\nnext\n")
    assert rig.read() == ["next"]


def test_binary_garbage_becomes_text(rig: Rig) -> None:
    rig.write(b"\xff\xfe\x00\x1b[31mred\n" + "größe\n".encode())
    texts = rig.read()
    assert texts == ["\\xff\\xfe\x00\x1b[31mred", "größe"]
    record = LogRecord(0.0, 1, "web.1", texts[0])
    assert record.to_text().endswith("| \\xff\\xfe\\x00red")
    assert record.to_text(colours=True).endswith("\x1b[31mred")
    assert LogRecord.from_dict(json.loads(record.to_json())) == record


def test_a_terminal_is_safe_from_escape_sequences() -> None:
    record = LogRecord(0.0, None, "web.1", "\x1b]0;title\x07 \x9b2J \x1b[2J tab\there")
    assert record.to_text(colours=True).endswith("| \\x1b]0;title\\x07 \\x9b2J \\x1b[2J tab\there")


def test_consumed_space_is_freed_while_the_writer_goes_on(rig: Rig) -> None:
    line = b"x" * 99 + b"\n"
    path = rig.write(line * 20_000)
    before = path.stat().st_blocks
    assert len(rig.read()) == 20_000
    after = path.stat().st_blocks
    if after == before:
        pytest.skip("this file system has no FALLOC_FL_PUNCH_HOLE")
    assert before >= 2_000_000 // 512
    assert after <= 2 * outputfile.PUNCH_AFTER // 512
    assert path.stat().st_size == 2_000_000  # O_APPEND writers notice nothing
    rig.write(b"and on\n")
    assert rig.read() == ["and on"]


def test_a_write_between_read_and_punch_is_kept(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    real = outputfile.punch
    wrote = []

    def punch(fd: int, start: int, end: int) -> bool:
        wrote.append(f"late {len(wrote)}")
        rig.write(f"{wrote[-1]}\n".encode())
        return real(fd, start, end)

    monkeypatch.setattr(outputfile, "punch", punch)
    texts = []
    for _ in range(5):
        rig.write(b"y" * 50_000 + b"\n" + b"z" * 50_000 + b"\n")
        texts += rig.read()
    texts += rig.read()
    assert [text for text in texts if text.startswith("late")] == wrote != []


def test_a_crash_loses_no_line(tmp_path: Path) -> None:
    """A follower is killed with SIGKILL again and again while a writer writes; a last one reads the rest."""
    rig = Rig(tmp_path)
    delivered = tmp_path / "delivered"
    program = f"""
import os, sys, pathlib
from instar.supervisor.output import OutputFollower
fd = os.open({str(delivered)!r}, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
follower = OutputFollower(pathlib.Path({str(rig.root)!r}), lambda r: os.write(fd, r.text.encode() + b"\\n"),
                          state=pathlib.Path({str(rig.state)!r}))
print("up", flush=True)
while True:
    follower.poll_once()
"""
    count = 0
    for _ in range(4):
        follower = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE)
        assert follower.stdout is not None
        follower.stdout.readline()
        for _ in range(20):
            rig.write(b"".join(b"%d %s\n" % (count + i, b"-" * 80) for i in range(500)))
            count += 500
        follower.kill()
        follower.wait()
        follower.stdout.close()
    seen = [int(line.split()[0]) for line in delivered.read_text().splitlines()]
    rig.new_follower()
    seen += [int(text.split()[0]) for text in rig.read()]
    assert sorted(set(seen)) == list(range(count))
    assert len(seen) - len(set(seen)) <= 4 * 2 * outputfile.CHUNK // 80  # twice: at most the last rounds of each


def test_an_orderly_successor_repeats_nothing(rig: Rig) -> None:
    rig.write(b"one\ntwo\nthr")
    assert rig.read() == ["one", "two"]
    rig.follower.close()
    rig.new_follower()
    rig.write(b"ee\n")
    assert rig.read() == ["three"]


def test_lost_offsets_repeat_rather_than_lose_and_never_show_a_hole(rig: Rig) -> None:
    rig.write(b"%s\n" % (b"x" * 99) * 5_000)
    rig.read()
    rig.state.unlink()
    rig.new_follower()
    rig.write(b"new\n")
    texts = rig.read()
    assert texts[-1] == "new"
    assert not any("\0" in text for text in texts)


@pytest.mark.parametrize(("content", "offset"), [(b"seen\n", 5), (b"", 0)])
@pytest.mark.parametrize("hole", [0, 8192])
def test_a_write_while_looking_for_holes_is_kept(
    rig: Rig, content: bytes, offset: int, hole: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = rig.write(content)
    os.truncate(path, len(content) + hole)
    real = os.lseek

    def lseek(fd: int, position: int, how: int) -> int:
        try:
            return real(fd, position, how)
        finally:
            rig.write(b"late\n")  # after the kernel has said that there is no data

    monkeypatch.setattr("instar.supervisor.punch.os.lseek", lseek)
    with path.open("rb") as file:
        found = skip_hole(file.fileno(), offset)
        file.seek(found)
        assert file.read().lstrip(b"\0") in (b"", b"late\n")
        assert found <= len(content) + hole


@pytest.mark.parametrize(
    "content", ["", "{", "[]", '{"files": {"g1/web.1.out": 5}}', '{"files": {"a": {"offset": "x"}}}']
)
def test_a_damaged_state_file_is_no_error(rig: Rig, content: str) -> None:
    rig.state.write_text(content)
    rig.new_follower()
    rig.write(b"line\n")
    assert rig.read() == ["line"]


def test_truncated_and_replaced_files_start_again(rig: Rig) -> None:
    path = rig.write(b"one\ntwo\n")
    rig.read()
    os.truncate(path, 0)
    rig.write(b"new\n")
    assert rig.read() == ["new"]
    rig.write(b"last words\n")
    path.rename(path.with_suffix(".old"))
    rig.write(b"successor\n")
    assert rig.read() == ["last words", "successor"]


def test_links_and_fifos_are_left_alone(rig: Rig, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes(b"secret\n")
    rig.write(b"ok\n", "g1/zygote.out")
    (rig.root / "g1/web.1.out").symlink_to(secret)
    (rig.root / "g1/web.2.out").hardlink_to(secret)
    os.mkfifo(rig.root / "g1/web.3.out")
    (rig.root / "g2").symlink_to(tmp_path)
    assert rig.read() == ["ok"]


def test_a_full_disk_delays_lines_and_loses_none(rig: Rig) -> None:
    got: list[str] = []
    full = True

    def sink(record: LogRecord) -> None:
        if full and len(got) == 1:
            raise OSError(errno.ENOSPC, "disk full")
        got.append(record.text)

    follower = OutputFollower(rig.root, sink, state=rig.state)
    rig.write(b"one\ntwo\nthree\n")
    follower.poll_once()
    follower.poll_once()
    assert got == ["one"]
    follower.retire(1)
    follower.poll_once()
    assert (rig.root / "g1").exists()
    full = False
    follower.poll_once()
    assert got == ["one", "two", "three"]
    assert not (rig.root / "g1").exists()


def test_a_retired_generation_is_read_to_its_end_and_deleted(rig: Rig) -> None:
    rig.write(b"x" * 150_000 + b"\nlast words")
    rig.write(b"other\n", "g2/web.1.out")
    rig.follower.retire(1)
    texts = rig.read()
    assert "last words" in texts
    assert "other" in texts
    assert rig.follower.generations() == [2]
    assert "g1/web.1.out" not in json.loads(rig.state.read_text())["files"]


def test_close_delivers_unfinished_lines_only_at_the_very_end(rig: Rig) -> None:
    rig.write(b"unfinished")
    rig.follower.close()
    assert rig.records == []
    rig.new_follower().close(final=True)
    assert [record.text for record in rig.records] == ["unfinished"]
