from __future__ import annotations

import os

import pytest

from instar.handlers import epoch
from instar.handlers.epoch import REBOOT_JUMP, Record, following
from instar.handlers.errors import LockError

HERE, BEFORE = "11111111-1111-1111-1111-111111111111", "22222222-2222-2222-2222-222222222222"


@pytest.fixture
def fd(tmp_path):
    descriptor = os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT)
    yield descriptor
    os.close(descriptor)


def test_a_record_comes_back(fd):
    for number in (1, 2, 10**18):
        epoch.write(fd, Record(number, HERE))
        assert epoch.read(fd) == (number, HERE)
    assert os.fstat(fd).st_size == 71, "fixed width: a record covers the one before"


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\0" * 71,
        b"instar-epoch 5\n",
        b"instar-epoch 00000000000000000005 11111111",
        b"instar-epoch 0000000000000000000x " + HERE.encode() + b"\n",
        b"instar-epoch 00000000000000000005 " + HERE.encode() + b"\n\n",
        os.urandom(200),
    ],
)
def test_damage_is_no_record(fd, content):
    os.write(fd, content)
    assert epoch.read(fd) is None


def test_following():
    assert following(None, HERE) == 1
    assert following(Record(7, HERE), HERE) == 8
    assert following(Record(7, BEFORE), HERE) == 7 + REBOOT_JUMP


def test_the_boot_id_is_the_kernels():
    assert len(epoch.boot_id()) == 36


def test_a_full_disk_is_said():
    full = os.open("/dev/full", os.O_RDWR)
    try:
        with pytest.raises(LockError, match="cannot write the epoch"):
            epoch.write(full, Record(1, HERE))
    finally:
        os.close(full)


def test_a_new_file_is_synced_once(fd, tmp_path, monkeypatch):
    synced = []
    monkeypatch.setattr(os, "fsync", synced.append)
    epoch.sync_new(fd, tmp_path)
    assert len(synced) == 2 and synced[0] == fd
