from __future__ import annotations

import contextlib
import errno
import ipaddress
import os
import socket
import stat
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from instar.errors import ConfigError
from instar.listeners import Canary, ListenError, Mode, RenamedListener, Steering, unix

ROWS = {"a": (0,), "b": (0,)}
LIVE_A = Steering("a", ROWS)
LIVE_B = Steering("b", ROWS)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    folder = Path(f"/tmp/instar-unix-{os.getpid()}-{tmp_path.name[-20:]}")
    folder.mkdir()
    yield folder / "app.sock"
    for item in folder.iterdir():
        item.unlink()
    folder.rmdir()


@contextlib.contextmanager
def opened(path: Path, **options: object) -> Iterator[RenamedListener]:
    listener = RenamedListener.open(f"unix:{path}", backlog=512, **options)
    try:
        yield listener
    finally:
        listener.close()


def connect(path: Path) -> socket.socket:
    client = socket.socket(socket.AF_UNIX)
    client.settimeout(5)
    client.connect(str(path))
    return client


def accepted(sock: socket.socket) -> int:
    count = 0
    with contextlib.suppress(BlockingIOError):
        while True:
            sock.accept()[0].close()
            count += 1
    return count


def names(path: Path) -> set[str]:
    return {item.name for item in path.parent.iterdir()}


def test_the_public_path_appears_with_the_first_switch_and_moves(path: Path) -> None:
    with opened(path) as listener:
        assert listener.mode is Mode.RENAMED
        assert listener.sockets("a") == listener.all_sockets() == ()
        listener.prepare("a", 6)
        assert names(path) == {"app.sock.g6"}
        listener.apply(LIVE_A)
        listener.prepare("b", 7)
        for steering, slot in [(LIVE_A, "a"), (LIVE_B, "b"), (LIVE_B, "b"), (LIVE_A, "a"), (LIVE_B, "b")]:
            listener.apply(steering)
            clients = [connect(path) for _ in range(100)]
            assert accepted(listener.sockets(slot)[0]) == 100
            assert names(path) == {"app.sock", "app.sock.g6", "app.sock.g7"}
            for client in clients:
                client.close()
        listener.release("a")
        assert names(path) == {"app.sock", "app.sock.g7"}
        connect(path).close()
    assert names(path) == set()


def test_what_waits_in_the_old_backlog_is_accepted_there(path: Path) -> None:
    with opened(path) as listener:
        listener.prepare("a", 1)
        listener.apply(LIVE_A)
        clients = [connect(path) for _ in range(300)]
        listener.prepare("b", 2)
        listener.apply(LIVE_B)
        for client in clients:
            client.sendall(b"?")
        assert accepted(listener.sockets("b")[0]) == 0
        for _ in clients:
            connection = listener.sockets("a")[0].accept()[0]
            assert connection.recv(1) == b"?"
            connection.sendall(b"a")
            connection.close()
        assert Counter(client.recv(1) for client in clients) == {b"a": 300}


def test_no_connect_fails_while_the_path_is_renamed(path: Path) -> None:
    failures: list[OSError] = []
    connected = 0
    stop = threading.Event()

    def client() -> None:
        nonlocal connected
        while not stop.is_set():
            try:
                connect(path).close()
                connected += 1
            except BlockingIOError:
                continue  # a full backlog
            except OSError as error:
                failures.append(error)

    with opened(path) as listener:
        listener.prepare("a", 1)
        listener.apply(LIVE_A)
        listener.prepare("b", 2)
        thread = threading.Thread(target=client)
        thread.start()
        for turn in range(2000):
            listener.apply((LIVE_B, LIVE_A)[turn % 2])
            accepted(listener.sockets("a")[0])
            accepted(listener.sockets("b")[0])
        stop.set()
        thread.join()
    assert failures == []
    assert connected > 100


def test_a_probe_reaches_the_standby(path: Path) -> None:
    with opened(path) as listener:
        listener.prepare("a", 1)
        listener.apply(LIVE_A)
        listener.prepare("b", 2)
        with listener.connect_probe("b", 0, 5.0), listener.connect_probe("b", 3, 5.0) as probe:
            assert probe.gettimeout() == 5.0
            assert accepted(listener.sockets("b")[0]) == 2
        assert accepted(listener.sockets("a")[0]) == 0


def test_preparing_twice_keeps_the_socket_and_another_generation_replaces_it(path: Path) -> None:
    with opened(path) as listener:
        listener.prepare("a", 1)
        first = listener.sockets("a")[0]
        listener.prepare("a", 1)
        assert listener.sockets("a")[0] is first
        listener.prepare("a", 3)
        assert first.fileno() == -1
        assert names(path) == {"app.sock.g3"}
        listener.apply(LIVE_A)
        with pytest.raises(ValueError, match="cannot release slot a"):
            listener.release("a")
        with pytest.raises(ValueError, match="cannot release slot a"):
            listener.prepare("a", 4)


def test_a_slot_without_a_generation_is_refused(path: Path) -> None:
    with opened(path) as listener:
        listener.prepare("a", 1)
        listener.apply(LIVE_A)
        with pytest.raises(ValueError, match="cannot use slot b"):
            listener.apply(LIVE_B)
        with pytest.raises(ValueError, match="cannot use slot b"):
            listener.connect_probe("b", 0, 1.0)
        connect(path).close()
        assert accepted(listener.sockets("a")[0]) == 1


@pytest.mark.parametrize(("options", "expected"), [({}, 0o660), ({"permissions": 0o600}, 0o600)])
def test_permissions_do_not_depend_on_the_umask(path: Path, options: dict[str, int], expected: int) -> None:
    before = os.umask(0o077)
    try:
        with opened(path, **options) as listener:
            listener.prepare("a", 1)
            listener.apply(LIVE_A)
            assert stat.S_IMODE(path.stat().st_mode) == expected
    finally:
        os.umask(before)


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give a file away")
def test_owner(path: Path) -> None:
    with opened(path, owner=(65534, -1)) as listener:
        listener.prepare("a", 1)
        listener.apply(LIVE_A)
        assert (path.stat().st_uid, path.stat().st_gid) == (65534, os.getgid())


@pytest.mark.parametrize("canary", [Canary(share=0.1), Canary(networks=(ipaddress.ip_network("10.0.0.0/8"),))])
def test_a_canary_is_refused_before_anything_changes(path: Path, canary: Canary) -> None:
    with opened(path) as listener:
        listener.prepare("a", 1)
        listener.prepare("b", 2)
        listener.apply(LIVE_A)
        with pytest.raises(ConfigError, match="cannot run a canary on unix:"):
            listener.apply(Steering("b", ROWS, canary))
        connect(path).close()
        assert accepted(listener.sockets("a")[0]) == 1


# What else may stand at the path


def stale(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(path))
        sock.listen()


def test_the_sockets_of_a_dead_process_are_replaced(path: Path) -> None:
    for name in ("app.sock", "app.sock.g1", "app.sock.g22", ".app.sock.next"):
        stale(path.with_name(name))
    path.with_name("app.sock.g3").write_text("no socket")
    path.with_name("app.sock.gone").write_text("not our name")
    with opened(path) as listener:
        assert names(path) == {"app.sock", "app.sock.g3", "app.sock.gone"}
        listener.prepare("a", 1)
        listener.apply(LIVE_A)
        connect(path).close()
        assert accepted(listener.sockets("a")[0]) == 1
        with pytest.raises(ListenError, match=r"app.sock.g3 exists and is no socket"):
            listener.prepare("b", 3)


@pytest.mark.parametrize("backlog", [16, 0], ids=["idle", "full"])
def test_a_living_server_is_left_alone(path: Path, backlog: int) -> None:
    with socket.socket(socket.AF_UNIX) as server, contextlib.ExitStack() as stack:
        server.bind(str(path))
        server.listen(backlog)
        if backlog == 0:
            stack.enter_context(connect(path))
        with pytest.raises(ListenError, match=r"cannot listen on unix:.*: another process serves there"):
            RenamedListener.open(f"unix:{path}", backlog=16)
        assert path.is_socket()


def test_a_living_generations_name_is_left_alone(path: Path) -> None:
    with opened(path) as listener, socket.socket(socket.AF_UNIX) as server:
        server.bind(f"{path}.g5")
        server.listen()
        with pytest.raises(ListenError, match="another process serves there"):
            listener.prepare("a", 5)


def test_a_file_or_a_link_at_the_path_is_left_alone(path: Path) -> None:
    path.write_text("mine")
    with pytest.raises(ListenError, match="exists and is no socket"):
        RenamedListener.open(f"unix:{path}", backlog=16)
    assert path.read_text() == "mine"


def test_a_missing_folder_is_named(path: Path) -> None:
    with pytest.raises(ListenError, match="no folder /nowhere/at/all; create it"):
        RenamedListener.open("unix:/nowhere/at/all/app.sock", backlog=16)


def test_closing_removes_only_what_is_ours(path: Path) -> None:
    with opened(path) as listener:
        listener.prepare("a", 1)
        listener.apply(LIVE_A)
        path.unlink()
        path.with_name("app.sock.g1").unlink()
        stale(path)
        stale(path.with_name("app.sock.g1"))
    assert names(path) == {"app.sock", "app.sock.g1"}


def test_a_name_that_somebody_removed_is_bound_again(path: Path) -> None:
    with opened(path) as listener:
        listener.prepare("b", 1)
        path.with_name("app.sock.g1").unlink()
        listener.prepare("b", 1)
        listener.connect_probe("b", 0, 5.0).close()


# Long paths


def long_path(path: Path, length: int) -> Path:
    return path.with_name("s" * (length - len(str(path.parent)) - 1))


def test_only_the_public_path_must_fit_a_socket_address(path: Path) -> None:
    public = long_path(path, 107)
    with opened(public) as listener:
        listener.prepare("a", 12345)
        listener.apply(LIVE_A)
        connect(public).close()
        listener.connect_probe("a", 0, 5.0).close()
        assert accepted(listener.sockets("a")[0]) == 2
        restored = RenamedListener.restore(f"unix:{public}", {"a": listener.sockets("a")[0]}, live="a", backlog=16)
        restored.connect_probe("a", 0, 5.0).close()
    assert names(path) == set()
    with pytest.raises(ConfigError, match="has 108 bytes, and a socket's path at most 107; use a shorter one"):
        RenamedListener.open(f"unix:{long_path(path, 108)}", backlog=16)


# Sockets passed on


def test_restore_goes_on_where_the_last_supervisor_stopped(path: Path) -> None:
    first = RenamedListener.open(f"unix:{path}", backlog=16)
    first.prepare("a", 4)
    first.prepare("b", 5)
    first.apply(LIVE_B)
    sockets = {"a": first.sockets("a")[0].dup(), "b": first.sockets("b")[0].dup()}
    waiting = connect(path)
    restored = RenamedListener.restore(f"unix:{path}", sockets, live="b", backlog=16)
    restored.prepare("b", 5)
    assert accepted(restored.sockets("b")[0]) == 1
    restored.apply(LIVE_A)
    connect(path).close()
    assert accepted(restored.sockets("a")[0]) == 1
    restored.release("b")
    assert names(path) == {"app.sock", "app.sock.g4"}
    restored.close()
    waiting.close()
    assert names(path) == set()


def test_restore_refuses_sockets_of_another_path(path: Path) -> None:
    with opened(path) as listener, socket.socket() as tcp:
        listener.prepare("a", 4)
        with pytest.raises(ListenError, match="cannot restore"):
            RenamedListener.restore(f"unix:{path}2", {"a": listener.sockets("a")[0]}, live="a", backlog=16)
        with pytest.raises(ListenError, match="cannot restore"):
            RenamedListener.restore(f"unix:{path}", {"a": tcp}, live="a", backlog=16)
        path.with_name("app.sock.g4").unlink()
        with pytest.raises(ListenError, match="is gone"):
            RenamedListener.restore(f"unix:{path}", {"a": listener.sockets("a")[0]}, live="a", backlog=16)


def test_restore_completes_a_switch_that_a_crash_interrupted(path: Path) -> None:
    with opened(path) as listener:
        listener.prepare("a", 1)
        listener.prepare("b", 2)
        listener.apply(LIVE_A)
        path.with_name(".app.sock.next").hardlink_to(path.with_name("app.sock.g2"))
        sockets = {"a": listener.sockets("a")[0], "b": listener.sockets("b")[0]}
        RenamedListener.restore(f"unix:{path}", sockets, live="b", backlog=16)
        connect(path).close()
        assert accepted(sockets["b"]) == 1
        assert names(path) == {"app.sock", "app.sock.g1", "app.sock.g2"}


def test_a_failed_rename_leaves_no_second_link(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with opened(path) as listener:
        listener.prepare("a", 1)
        with monkeypatch.context() as patch:
            patch.setattr(unix.Path, "rename", full)
            with pytest.raises(OSError, match="No space left"):
                listener.apply(LIVE_A)
        assert names(path) == {"app.sock.g1"}
        listener.apply(LIVE_A)
        connect(path).close()
