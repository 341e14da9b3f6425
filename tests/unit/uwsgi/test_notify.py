"""What is told to a supervisor arrives as sd_notify(3) says, with the descriptors."""

from __future__ import annotations

import os
import socket
import threading
from pathlib import Path

import pytest

from instar.system.notify import Notice, Notifier, close_all, listen_variables, notice_socket, receive, watchdog_limit


@pytest.fixture
def receiver(tmp_path):
    path = tmp_path / ("long" * 30) / "notify"
    path.parent.mkdir()
    with notice_socket(path) as sock:
        yield sock, Notifier(str(path))


def test_fields_and_sender_arrive(receiver) -> None:
    sock, notifier = receiver
    assert receive(sock) is None
    assert notifier.ready("3 workers = all")
    assert notifier.reloading()
    assert notifier.stopping()
    first, second, third = receive(sock), receive(sock), receive(sock)
    assert first == Notice({"READY": "1", "STATUS": "3 workers = all"}, os.getpid(), os.getuid())
    assert second is not None
    assert third is not None
    assert second.fields["RELOADING"] == "1"
    assert second.fields["MONOTONIC_USEC"].isdigit()
    assert third.fields == {"STOPPING": "1"}


def test_a_line_break_can_not_smuggle_a_field_in(receiver) -> None:
    with pytest.raises(ValueError, match="one line"):
        receiver[1].status("fine\nMAINPID=1")


def test_stored_descriptors_are_the_same_sockets(receiver) -> None:
    sock, notifier = receiver
    with socket.create_server(("127.0.0.1", 0)) as listener:
        assert notifier.store("pool.web", [listener.fileno()])
    notice = receive(sock)
    assert notice is not None
    assert notice.fields == {"FDSTORE": "1", "FDNAME": "pool.web"}
    with socket.socket(fileno=notice.fds[0]) as kept:
        assert not os.get_inheritable(kept.fileno())
        socket.create_connection(kept.getsockname()).close()


@pytest.mark.parametrize("name", ["", "a:b", "a\nb", "ä", "x" * 256])
def test_names_that_would_not_survive_the_environment(receiver, name) -> None:
    with pytest.raises(ValueError, match="name"):
        receiver[1].store(name, [0])


def test_a_barrier_ends_when_the_supervisor_has_handled_it(receiver) -> None:
    sock, notifier = receiver
    assert not notifier.barrier(0.05)
    receive(sock).close()
    passed = []
    waiting = threading.Thread(target=lambda: passed.append(notifier.barrier(20)))
    waiting.start()
    sock.settimeout(20)
    notice = receive(sock)
    assert notice.fields == {"BARRIER": "1"}
    assert not passed
    notice.close()
    waiting.join()
    assert passed == [True]


def test_more_descriptors_than_fit_are_dropped_whole(receiver) -> None:
    sock, notifier = receiver
    fds = [os.dup(0) for _ in range(254)]
    assert not notifier.store("many", fds)
    assert notifier.store("many", fds[:253])
    close_all(fds)
    notice = receive(sock)
    assert len(notice.fds) == 253
    notice.close()


def test_nobody_listens(tmp_path) -> None:
    assert not Notifier(str(tmp_path / "none")).ready()
    assert not Notifier(str(tmp_path / "none")).barrier(0.1)


def test_abstract_address_and_environment() -> None:
    name = f"instar-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        sock.bind(f"\0{name}")
        environ = {"NOTIFY_SOCKET": f"@{name}"}
        notifier = Notifier.from_environment(environ)
        assert environ == {}
        assert notifier.status("up")
        assert receive(sock).fields == {"STATUS": "up"}
    assert Notifier.from_environment({}) is None
    assert Notifier.from_environment({"NOTIFY_SOCKET": "vsock:2:9"}) is None


def test_listen_variables() -> None:
    assert listen_variables(7, []) == {}
    assert listen_variables(7, ["a", "b"]) == {"LISTEN_PID": "7", "LISTEN_FDS": "2", "LISTEN_FDNAMES": "a:b"}


def test_a_stale_socket_is_replaced(tmp_path) -> None:
    path = Path(tmp_path / "notify")
    notice_socket(path).close()
    with notice_socket(path) as sock:
        assert Notifier(str(path)).ready()
        assert receive(sock) is not None
    assert path.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    ("usec", "pid", "limit"),
    [("3000000", "", 3.0), ("3000000", "own", 3.0), ("3000000", "1", 0.0), ("", "", 0.0), ("soon", "", 0.0)],
)
def test_the_watchdog_is_for_the_process_that_it_names(usec, pid, limit) -> None:
    environ = {"WATCHDOG_USEC": usec, "WATCHDOG_PID": str(os.getpid()) if pid == "own" else pid, "OTHER": "1"}
    assert watchdog_limit(environ) == limit
    assert environ == {"OTHER": "1"}
