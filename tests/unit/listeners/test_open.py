"""Choosing a mode, inherited sockets, restoring, and the lock of an address."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from socket_tools import count_arrivals, needs_ipv6

from instar import listeners
from instar.errors import ConfigError
from instar.listeners import (
    AddressLock,
    Canary,
    Listener,
    ListenError,
    Mode,
    SharedListener,
    SteeredListener,
    Steering,
    open_listener,
    restore_listener,
)
from instar.listeners.systemd import Inherited, match, take_inherited

ROWS = {"a": (0, 1), "b": (0, 1)}


@contextlib.contextmanager
def opened(address: str = "127.0.0.1:0", **options: object) -> Iterator[Listener]:
    listener = open_listener(address, **{"rows": 2, "backlog": 64} | options)
    try:
        yield listener
    finally:
        listener.close()


@contextlib.contextmanager
def given(host: str = "127.0.0.1", *, reuse_port: bool = False) -> Iterator[tuple[socket.socket, str]]:
    """A socket as systemd passes it on."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, reuse_port)
        sock.bind((host, 0))
        sock.listen(64)
        bracketed = f"[{host}]" if ":" in host else host
        yield sock, f"{bracketed}:{sock.getsockname()[1]}"


@pytest.fixture
def old_kernel(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    def refuse(*_: object) -> None:
        raise OSError(92, "Protocol not available")

    monkeypatch.setattr(listeners, "attach", refuse)
    listeners.steering_supported.cache_clear()
    yield
    listeners.steering_supported.cache_clear()


def test_tcp_is_steered(tmp_path: Path) -> None:
    with opened() as listener:
        assert listener.mode is Mode.STEERED
        assert listener.limits == ""
        assert len(listener.all_sockets()) == 4


def test_unix_is_renamed_whatever_is_asked_of_tcp(tmp_path: Path) -> None:
    for mode in (None, Mode.STEERED, Mode.SHARED):
        with opened(f"unix:{os.path.relpath(tmp_path)}/s", mode=mode) as listener:
            assert listener.mode is Mode.RENAMED


@pytest.mark.usefixtures("old_kernel")
def test_without_steering_the_socket_is_shared() -> None:
    with opened() as listener:
        assert listener.mode is Mode.SHARED
        assert "no canary" in listener.limits
    with pytest.raises(ConfigError, match="takes no steering program"):
        open_listener("127.0.0.1:0", rows=1, backlog=16, mode=Mode.STEERED)


def test_renaming_a_port_is_refused() -> None:
    with pytest.raises(ConfigError, match="it is no UNIX socket"):
        open_listener("127.0.0.1:0", rows=1, backlog=16, mode=Mode.RENAMED)


@pytest.mark.parametrize("address", ["127.0.0.1:0", pytest.param("[::]:0", marks=needs_ipv6)])
def test_shared(address: str) -> None:
    with opened(address, mode=Mode.SHARED) as listener:
        assert listener.sockets("a") == listener.sockets("b") == listener.all_sockets()
        sock = listener.all_sockets()[0]
        assert not listener.address.endswith(":0")
        assert not sock.getblocking()
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        listener.prepare("b", 2)
        listener.apply(Steering("b", ROWS))
        listener.release("a")
        with socket.create_connection(("127.0.0.1", sock.getsockname()[1])):
            sock.accept()[0].close()
        with pytest.raises(ConfigError, match="cannot run a canary"):
            listener.apply(Steering("b", ROWS, Canary(share=0.1)))
        with pytest.raises(ListenError, match="cannot probe one generation"):
            listener.connect_probe("b", 0, 1.0)
        with pytest.raises(ListenError, match="the address is in use"):
            SharedListener.open(listener.address, backlog=16)


# Inherited sockets


def test_an_inherited_socket_is_shared() -> None:
    with given() as (sock, address), given() as (other, _), opened(address, inherited=[other, sock]) as listener:
        assert listener.mode is Mode.SHARED
        assert listener.all_sockets() == (sock,)
        with pytest.raises(ConfigError, match="without ReusePort=yes"):
            open_listener(address, rows=1, backlog=16, mode=Mode.STEERED, inherited=[sock])


def test_an_inherited_socket_with_reuseport_is_the_first_of_a_group() -> None:
    with (
        given(reuse_port=True) as (sock, address),
        socket.create_connection(sock.getsockname()) as early,
        opened(address, inherited=[sock]) as listener,
    ):
        assert listener.mode is Mode.STEERED
        assert listener.sockets("a")[0] is sock
        connection, peer = sock.accept()  # whoever woke the service up
        assert peer == early.getsockname()
        connection.close()
        listener.apply(Steering("b", ROWS))
        assert isinstance(listener, SteeredListener)
        assert set(count_arrivals(listener, "127.0.0.1", 100)) == {2, 3}
    with given(reuse_port=True) as (sock, address), opened(address, mode=Mode.SHARED, inherited=[sock]) as listener:
        assert listener.mode is Mode.SHARED


def test_an_inherited_socket_that_others_joined_already_is_shared() -> None:
    with given(reuse_port=True) as (sock, address), socket.socket() as foreign:
        foreign.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        foreign.bind(sock.getsockname())
        foreign.listen()
        with pytest.raises(ListenError, match="another process of this user shares it"):
            open_listener(address, rows=2, backlog=16, mode=Mode.STEERED, inherited=[sock])
        with opened(address, inherited=[sock]) as listener:
            assert listener.mode is Mode.SHARED
            assert sock.fileno() >= 0


def test_an_inherited_unix_socket_is_shared_and_its_path_stays(tmp_path: Path) -> None:
    path = f"/tmp/instar-open-{os.getpid()}.sock"
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(path)
        sock.listen()
        with opened(f"unix:{path}", inherited=[sock]) as listener:
            assert listener.mode is Mode.SHARED
    assert Path(path).is_socket()
    Path(path).unlink()


def pass_on(*sockets: socket.socket | None) -> int:
    """Put copies at consecutive descriptors; None leaves a plain file there. Returns the first."""
    first = 200
    for number, sock in enumerate(sockets):
        source = sock.fileno() if sock else os.open("/dev/null", os.O_RDONLY)
        os.dup2(source, first + number, inheritable=True)
        if sock is None:
            os.close(source)
    return first


def test_the_service_managers_sockets_are_taken_by_name() -> None:
    with given() as (one, address_one), given() as (two, address_two), socket.socket() as deaf:
        first = pass_on(one, None, two, deaf)
        environ = {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "4", "LISTEN_FDNAMES": "web:store:admin", "HOME": "/"}
        taken = take_inherited(environ, first=first)
        assert environ == {"HOME": "/"}
        assert [item.name for item in taken] == ["web", "admin"]
        assert [os.get_inheritable(first + number) for number in range(4)] == [False] * 4
        matched = match(taken, [address_two, "127.0.0.1:1", address_one])
        assert {bind: sock.fileno() for bind, sock in matched.items()} == {address_one: first, address_two: first + 2}
        with pytest.raises(ConfigError, match=r"cannot serve the inherited socket admin \(127.0.0.1:\d+\): web.bind"):
            match(taken, [address_one])
        for item in taken:
            item.socket.close()
        os.close(first + 1)
        os.close(first + 3)


@pytest.mark.parametrize(
    "environ",
    [
        {},
        {"LISTEN_FDS": "1"},
        {"LISTEN_FDS": "1", "LISTEN_PID": "1"},
        {"LISTEN_FDS": "0", "LISTEN_PID": str(os.getpid())},
    ],
)
def test_variables_for_somebody_else_are_removed_and_not_believed(environ: dict[str, str]) -> None:
    environ = dict(environ)
    assert take_inherited(environ, first=250) == []
    assert environ == {}


def test_malformed_variables() -> None:
    with pytest.raises(ConfigError, match="is no number"):
        take_inherited({"LISTEN_FDS": "x", "LISTEN_PID": str(os.getpid())})


def test_an_inherited_unix_socket_matches_its_path(tmp_path: Path) -> None:
    path = f"/tmp/instar-match-{os.getpid()}.sock"
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(path)
        assert match([Inherited("x", sock)], ["127.0.0.1:1", f"unix:{path}"]) == {f"unix:{path}": sock}
        with pytest.raises(ConfigError, match="x \\(/tmp/instar-match"):
            match([Inherited("x", sock)], [])
    Path(path).unlink()


# Restoring


def test_restore_tcp_unix_and_shared() -> None:
    path = f"/tmp/instar-restore-{os.getpid()}.sock"
    for address, mode in [("127.0.0.1:0", None), (f"unix:{path}", None), ("127.0.0.1:0", Mode.SHARED)]:
        with opened(address, mode=mode) as listener:
            listener.prepare("a", 1)
            listener.apply(Steering("a", ROWS))
            listener.prepare("b", 2)
            passed = {slot: listener.sockets(slot) for slot in ("a", "b")}
            restored = restore_listener(
                listener.address, listener.mode, passed, steering=Steering("b", ROWS), backlog=64
            )
            assert (restored.mode, restored.address) == (listener.mode, listener.address)
            assert restored.all_sockets() == listener.all_sockets()
            if mode is None and not path.startswith(address[5:]):
                assert isinstance(restored, SteeredListener)
                assert set(count_arrivals(restored, "127.0.0.1", 60)) == {2, 3}
            restored.close()


def test_restore_without_the_socket() -> None:
    with pytest.raises(ListenError, match="its socket is missing"):
        restore_listener("127.0.0.1:1", Mode.SHARED, {}, steering=Steering("a", ROWS), backlog=64)
    with given() as (sock, _), pytest.raises(ListenError, match="its socket is missing"):
        restore_listener("127.0.0.1:1", Mode.SHARED, {"a": [sock]}, steering=Steering("a", ROWS), backlog=64)
    with pytest.raises(ListenError, match="0 sockets"):
        restore_listener("127.0.0.1:1", Mode.STEERED, {}, steering=Steering("a", ROWS), backlog=64)


# The lock


def test_one_lock_an_address(tmp_path: Path) -> None:
    lock = AddressLock(tmp_path, "127.0.0.1:80")
    AddressLock(tmp_path, "127.0.0.1:81").release()
    with pytest.raises(
        ListenError, match=rf"cannot listen on 127.0.0.1:80: the instar supervisor with pid {os.getpid()}"
    ):
        AddressLock(tmp_path, "127.0.0.1:80")
    lock.release()
    lock.release()
    assert lock.path.exists()
    AddressLock(tmp_path, "127.0.0.1:80").release()


def test_the_lock_ends_with_its_holder(tmp_path: Path) -> None:
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        AddressLock(tmp_path, "[::]:80")
        os.write(writer, b"x")
        signal.pause()
        os._exit(0)
    os.read(reader, 1)
    with pytest.raises(ListenError, match=f"pid {child}"):
        AddressLock(tmp_path, "[::]:80")
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    AddressLock(tmp_path, "[::]:80").release()
    os.close(reader)
    os.close(writer)


def test_lock_files_of_any_address(tmp_path: Path) -> None:
    for address in ("unix:/run/x/app.sock", "unix:/" + "long/" * 60 + "s"):
        lock = AddressLock(tmp_path, address)
        assert lock.path.parent == tmp_path
        assert lock.path.stat().st_mode & 0o777 == 0o600
        lock.release()
    with pytest.raises(ListenError, match=r"cannot lock 127.0.0.1:80"):
        AddressLock(tmp_path / "missing", "127.0.0.1:80")


def test_a_lock_file_replaced_meanwhile_is_no_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    AddressLock(tmp_path, "127.0.0.1:80").release()
    monkeypatch.setattr(os.path, "samestat", lambda *_: False)
    with pytest.raises(ListenError, match="was replaced meanwhile"):
        AddressLock(tmp_path, "127.0.0.1:80")
