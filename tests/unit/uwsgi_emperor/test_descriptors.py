"""Descriptors that outlive a vassal, and the Emperor."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from instar.supervisor.changes import Changes
from instar.system import System
from instar.uwsgi.emperor import exec_with
from instar.uwsgi.emperor.fdstore import MOST, FdStore, Stored
from instar.uwsgi.emperor.process import VassalProcess
from instar.uwsgi.emperor.roll import Roll
from instar.uwsgi.emperor.safe import Safe
from instar.uwsgi.emperor.scan import Found
from instar.uwsgi.emperor.vassal_file import Kind


def listener() -> socket.socket:
    sock = socket.socket()
    sock.bind(("127.0.0.1", 0))
    sock.listen()
    return sock


def is_open(fd: int) -> bool:
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True


def test_store_keeps_each_socket_once_and_closes_what_it_gives_up() -> None:
    kept, dropped = [], []
    store = FdStore(kept.append, dropped.append)
    with listener() as one, listener() as two:
        assert store.add("pool", "a", [os.dup(one.fileno())]) == 1
        again = os.dup(one.fileno())
        assert store.add("pool", "a", [again]) == 0
        assert not is_open(again)
        store.add("pool", "bad:name", [os.dup(two.fileno())])
        assert [item.name for item in store.of("pool")] == ["a", "stored"]
        fds = [item.fd for item in store.of("pool")]
        store.remove("pool", "a")
        assert (is_open(fds[0]), is_open(fds[1])) == (False, True)
        store.discard("pool")
        assert not is_open(fds[1])
    assert kept == dropped


def test_store_is_bounded() -> None:
    store = FdStore()
    with listener() as sock:
        for _ in range(MOST):
            store.restore(Stored("pool", "x", os.open("/dev/null", os.O_RDONLY)))
        extra = os.dup(sock.fileno())
        assert store.add("pool", "x", [extra]) == 0
        assert not is_open(extra)
    store.close()


def test_key_of_a_stored_descriptor_says_all() -> None:
    with listener() as sock:
        stored = Stored("a:b.yml", "pool-1", sock.fileno())
        assert Stored.parse(stored.key, sock.fileno()) == stored
        assert Stored.parse("link:12", 3) is None


PROGRAM = """
import json, os, socket
listed = sorted(map(int, os.listdir("/proc/self/fd")))
ports = [socket.socket(fileno=number).getsockname()[1] for number in (3, 4)]
byte = os.read(int(os.environ["UWSGI_EMPEROR_FD"]), 1).decode()
count, names, pid = (os.environ["LISTEN_" + name] for name in ("FDS", "FDNAMES", "PID"))
print(json.dumps([count, names, pid == str(os.getpid()), ports, byte, listed]))
"""


def test_program_finds_its_descriptors_from_three_on() -> None:
    ours, theirs = socket.socketpair()
    with listener() as one, listener() as two, ours, theirs:
        ours.send(b"x")
        fds, wanted = [two.fileno(), one.fileno()], [two.getsockname()[1], one.getsockname()[1]]
        python = [sys.executable, "-I", "-S"]
        done = subprocess.run(
            [*python, exec_with.__file__, f"{fds[0]},{fds[1]}", "b:a", *python, "-c", PROGRAM],
            env={**os.environ, "UWSGI_EMPEROR_FD": str(theirs.fileno())},
            pass_fds=[*fds, theirs.fileno()],
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
    count, names, pid_fits, ports, byte, listed = json.loads(done.stdout)
    assert (count, names, pid_fits, byte) == ("2", "b:a", True, "x")
    assert ports == wanted
    # 0, 1, 2, the two, the link, and the folder that was listed.
    assert len(listed) == 7


@pytest.fixture
def keeper(tmp_path: Path) -> Iterator[Safe]:
    safe = Safe(tmp_path / "keeper.sock", tmp_path / "keeper.out", System(), lambda text: None)
    yield safe
    safe.close()


def test_what_is_put_into_the_safe_outlives_who_put_it_there(tmp_path: Path, keeper: Safe) -> None:
    assert keeper.open() == {}
    sock, other = listener(), listener()
    port = sock.getsockname()[1]
    keeper.put("fd:1:a:pool", sock.fileno())
    keeper.put("fd:2:b:pool", other.fileno())
    keeper.take("fd:2:b:pool")
    sock.close()
    other.close()
    # As if the Emperor had died: nothing is said to the keeper.
    keeper.close(quit_keeper=False)
    heir = Safe(tmp_path / "keeper.sock", tmp_path / "keeper.out", System(), lambda text: None)
    found = heir.open()
    try:
        assert list(found) == ["fd:1:a:pool"]
        assert socket.socket(fileno=found["fd:1:a:pool"]).getsockname()[1] == port
        with socket.create_connection(("127.0.0.1", port)):
            pass
    finally:
        heir.close()
    end = time.monotonic() + 10
    while time.monotonic() < end:
        try:
            socket.create_connection(("127.0.0.1", port)).close()
        except OSError:
            return
        time.sleep(0.02)
    raise AssertionError("the keeper holds the socket although it was told to quit")


async def test_roll_knows_a_process_from_a_later_one_with_its_pid(tmp_path: Path) -> None:
    path, system = tmp_path / "roll.json", System()
    with subprocess.Popen(["sleep", "60"]) as child:
        roll = Roll(path, system)
        for name, pid, standin in (("a.yml", child.pid, True), ("b.yml", os.getpid(), False)):
            process = VassalProcess(pid, Kind.UWSGI, "/opt/uwsgi", system, Changes(), child=None)
            process.adopted(3.0)
            roll.enter(Found(name, tmp_path, (1, 2)), process, standin=standin)
        entries = Roll(path, system).read()
        assert [(item.vassal, item.pid, item.program, item.stamp, item.standin) for item in entries] == [
            ("a.yml", child.pid, "/opt/uwsgi", (1, 2), True),
            ("b.yml", os.getpid(), "/opt/uwsgi", (1, 2), False),
        ]
        child.kill()
    assert [item.vassal for item in Roll(path, system).read()] == ["b.yml"]
    raw = json.loads(path.read_text())
    raw["vassals"][1]["start_time"] += 1
    path.write_text(json.dumps(raw))
    assert Roll(path, system).read() == []
    path.write_text("[")
    assert Roll(path, system).read() == []
