from __future__ import annotations

import contextlib
import errno
import os
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from socket_tools import ADDRESSES, Clients, arrivals, backlog_length, count_arrivals, listening, needs_ipv6, port_of

from instar.errors import ConfigError
from instar.listeners import Canary, ListenError, Mode, SteeredListener, Steering, endpoint, order
from instar.listeners import tcp as tcp_module

IP_MINTTL = 21
BOTH = {"a": (0, 1), "b": (0, 1)}
LIVE_A = Steering("a", BOTH)
LIVE_B = Steering("b", BOTH)


@pytest.mark.parametrize(("address", "host"), ADDRESSES)
def test_cut_over_and_back(address: str, host: str) -> None:
    with listening(address) as listener:
        assert listener.address == address.replace(":0", f":{port_of(listener)}").replace("::0", "::")
        for steering, expected in [(LIVE_A, {0, 1}), (LIVE_B, {2, 3}), (LIVE_A, {0, 1})]:
            listener.apply(steering)
            assert set(count_arrivals(listener, host, 200)) == expected


def test_the_sockets_are_as_servers_expect_them() -> None:
    with listening(rows=3) as listener:
        assert listener.mode is Mode.STEERED
        assert listener.sockets("a") + listener.sockets("b") == listener.all_sockets()
        assert len(listener.all_sockets()) == 6
        for sock in listener.all_sockets():
            assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
            assert not sock.getblocking()
            assert not sock.get_inheritable()


@needs_ipv6
def test_only_the_wildcard_is_dual_stack() -> None:
    with listening("[::]:0") as both, listening("[::1]:0") as single:
        assert not both.all_sockets()[0].getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY)
        assert single.all_sockets()[0].getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY)


def test_clients_before_the_first_apply_reach_one_row_of_slot_a() -> None:
    with listening(rows=3) as listener:
        assert count_arrivals(listener, "127.0.0.1", 100) == {0: 100}


def test_clients_that_come_before_the_group_is_proven_stay_in_slot_a(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SteeredListener, "_proven", lambda *_, **__: True)
    with listening(rows=4) as listener:
        assert count_arrivals(listener, "127.0.0.1", 100) == {0: 100}


def test_nothing_is_left_in_the_backlogs_by_the_creation() -> None:
    with listening(rows=4) as listener:
        listener.verify()
        assert [backlog_length(sock) for sock in listener.all_sockets()] == [0] * 8
        assert {sock.getsockopt(socket.IPPROTO_IP, IP_MINTTL) for sock in listener.all_sockets()} == {0}


@pytest.mark.parametrize("rows", [(), (2,), (-1,)])
def test_rows_that_do_not_exist_change_nothing(rows: tuple[int, ...]) -> None:
    with listening() as listener:
        listener.apply(LIVE_B)
        with pytest.raises(ValueError, match="cannot steer"):
            listener.apply(Steering("a", {"a": rows, "b": (0,)}))
        with pytest.raises(ConfigError):
            listener.apply(Steering("a", BOTH, Canary(share=2.0)))
        assert set(count_arrivals(listener, "127.0.0.1", 50)) == {2, 3}


# The probe


@pytest.mark.parametrize(("address", "host"), ADDRESSES)
def test_probes_reach_each_row_while_clients_stay(address: str, host: str) -> None:
    with listening(address) as listener, Clients() as clients:
        listener.apply(LIVE_A)
        expected = {}
        for _ in range(100):
            for position, (slot, row) in enumerate([("a", 0), ("a", 1), ("b", 0), ("b", 1)]):
                probe = listener.connect_probe(slot, row, 5.0)
                clients.sockets.append(probe)
                expected[probe.getsockname()[:2]] = position
            clients.connect(host, port_of(listener))
        found = arrivals(listener.all_sockets(), list(expected))
        assert {peer: found[peer] for peer in expected} == expected
        assert {position for peer, position in found.items() if peer not in expected} <= {0, 1}


def test_a_probe_keeps_the_canary_and_leaves_no_trace() -> None:
    with listening() as listener:
        listener.apply(Steering("a", BOTH, Canary(share=0.5)))
        probe = listener.connect_probe("b", 1, 5.0)
        source_port = probe.getsockname()[1]
        assert probe.gettimeout() == 5.0
        probe.close()
        arrivals(listener.all_sockets(), [("127.0.0.1", source_port)])
        assert set(count_arrivals(listener, "127.0.0.1", 100)) == {0, 1, 2, 3}


def test_the_probes_port_is_free_again_and_means_nothing() -> None:
    with listening() as listener, Clients() as clients:
        listener.apply(LIVE_A)
        with listener.connect_probe("b", 1, 5.0) as probe:
            source_port = probe.getsockname()[1]
        arrivals(listener.all_sockets(), [("127.0.0.1", source_port)])
        try:
            again = clients.connect("127.0.0.1", port_of(listener), source_port=source_port)
        except OSError as error:
            assert error.errno == errno.EADDRINUSE
            pytest.skip("another process of this machine took the port")
        assert arrivals(listener.all_sockets(), [again])[again] in {0, 1}


def test_a_probe_of_a_full_backlog_times_out_and_clients_go_on() -> None:
    with listening(rows=1, backlog=0) as listener, Clients() as clients:
        clients.sockets.append(listener.connect_probe("b", 0, 5.0))
        with pytest.raises(TimeoutError):
            listener.connect_probe("b", 0, 0.2)
        with pytest.raises(ValueError, match="row 1"):
            listener.connect_probe("b", 1, 1.0)
        assert count_arrivals(listener, "127.0.0.1", 1, sockets=listener.sockets("a")) == {0: 1}


# What else lives at the address


@pytest.mark.parametrize("reuse_port", [0, 1])
def test_an_address_in_use_is_refused_even_if_the_kernel_would_share_it(reuse_port: int) -> None:
    with socket.socket() as foreign:
        foreign.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, reuse_port)
        foreign.bind(("127.0.0.1", 0))
        foreign.listen()
        address = f"127.0.0.1:{foreign.getsockname()[1]}"
        with pytest.raises(ListenError, match=f"cannot listen on {address}: the address is in use"):
            SteeredListener.open(address, rows=2, backlog=16)
        with socket.create_connection(foreign.getsockname()):
            foreign.accept()[0].close()  # still the only one there


@needs_ipv6
def test_the_dual_stack_wildcard_says_that_it_covers_ipv4() -> None:
    with listening("0.0.0.0:0") as listener, pytest.raises(ListenError, match=r"\[::\] covers IPv4 as well"):
        SteeredListener.open(f"[::]:{port_of(listener)}", rows=1, backlog=16)


def test_a_process_that_joins_between_test_and_bind_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    with listening() as listener:
        port = port_of(listener)
    foreign = []
    original = endpoint.Endpoint.bound_socket

    def racing(self: endpoint.Endpoint, *, reuse_port: bool) -> socket.socket:
        if reuse_port and not foreign:
            sock = original(self, reuse_port=True)
            sock.listen()
            foreign.append(sock)
        return original(self, reuse_port=reuse_port)

    monkeypatch.setattr(endpoint.Endpoint, "bound_socket", racing)
    with pytest.raises(ListenError, match="the address is in use"):
        SteeredListener.open(f"127.0.0.1:{port}", rows=2, backlog=16)
    foreign[0].close()


def test_a_process_that_joins_later_gets_no_client() -> None:
    with listening() as listener, socket.socket() as foreign:
        foreign.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        foreign.bind(("127.0.0.1", port_of(listener)))
        foreign.listen()
        listener.apply(LIVE_B)
        listener.prepare("a", 2)
        assert set(count_arrivals(listener, "127.0.0.1", 200)) == {2, 3}
        assert backlog_length(foreign) == 0


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("192.0.2.1:0", "no network interface has that address"),
        ("no-such-host.invalid:80", "use an IP address"),
        ("127.0.0.1", "it has no port"),
    ],
)
def test_impossible_addresses(address: str, message: str) -> None:
    with pytest.raises((ListenError, ConfigError), match=message):
        SteeredListener.open(address, rows=1, backlog=16)


def test_no_rows() -> None:
    with pytest.raises(ConfigError, match="at least one row"):
        SteeredListener.open("127.0.0.1:0", rows=0, backlog=16)


def as_nobody(action: Callable[[], object]) -> str:
    """What `action` returns in a process without privileges, or its error."""
    "x".encode("idna")  # getaddrinfo imports it, and nobody may not be allowed to read this Python
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            if os.getuid() == 0:
                os.setgroups([])
                os.setgid(65534)
                os.setuid(65534)
            answer = str(action())
        except BaseException as error:
            answer = str(error)
        os.write(writer, answer.encode())
        os._exit(0)
    os.close(writer)
    os.waitpid(child, 0)
    with open(reader, encoding="utf-8") as pipe:
        return pipe.read()


def test_a_privileged_port_needs_a_privilege() -> None:
    if int(Path("/proc/sys/net/ipv4/ip_unprivileged_port_start").read_text()) <= 80:
        pytest.skip("port 80 is open to everybody here")
    answer = as_nobody(lambda: SteeredListener.open("127.0.0.1:80", rows=1, backlog=16))
    assert answer.startswith("cannot listen on 127.0.0.1:80: permission denied; ")


def test_steering_needs_no_privilege() -> None:
    def work() -> object:
        with listening() as listener:
            shut_down(listener.all_sockets()[0])
            listener.prepare("b", 2)
            listener.apply(LIVE_B)
            with listener.connect_probe("a", 1, 5.0) as probe:
                peer = probe.getsockname()
                found = arrivals(listener.all_sockets(), [peer])[peer]
            return found, set(count_arrivals(listener, "127.0.0.1", 100))

    assert as_nobody(work) == "(1, {2, 3})"


def test_missing_ipv6_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    original = socket.socket

    def without_ipv6(family: int = -1, *arguments: int, **keywords: int) -> socket.socket:
        if family == socket.AF_INET6:
            raise OSError(errno.EAFNOSUPPORT, "Address family not supported by protocol")
        return original(family, *arguments, **keywords)

    monkeypatch.setattr(endpoint.socket, "socket", without_ipv6)
    with pytest.raises(ListenError, match=r"cannot listen on \[::\]:0: this system has no IPv6"):
        SteeredListener.open("[::]:0", rows=1, backlog=16)


@needs_ipv6
def test_dual_stack_without_an_ipv6_loopback_is_probed_over_ipv4(monkeypatch: pytest.MonkeyPatch) -> None:
    original = endpoint._client

    def without_loopback(family: int, target: tuple[str, int]) -> object:
        if family == socket.AF_INET6:
            raise OSError(errno.EADDRNOTAVAIL, "Cannot assign requested address")
        return original(family, target)

    monkeypatch.setattr(endpoint, "_client", without_loopback)
    with listening("[::]:0") as listener, listener.connect_probe("b", 1, 5.0) as probe:
        listener.verify()
        assert probe.family == socket.AF_INET
        peer = probe.getsockname()
        assert arrivals(listener.all_sockets(), [peer])[peer] == 3


# Indices that shift


def shut_down(sock: socket.socket) -> None:
    """What a careless worker does to a socket that it shares with everybody."""
    with sock.dup() as copy:
        copy.shutdown(socket.SHUT_RDWR)


@pytest.mark.parametrize("address", ["127.0.0.1:0", pytest.param("[::]:0", marks=needs_ipv6)])
@pytest.mark.parametrize("victims", [(0,), (3,), (1, 2), (0, 1, 2, 3)])
def test_a_socket_that_left_the_group_is_found_and_put_back(address: str, victims: tuple[int, ...]) -> None:
    with listening(address) as listener:
        listener.apply(LIVE_A)
        for victim in victims:
            shut_down(listener.all_sockets()[victim])
        listener.verify()
        assert set(count_arrivals(listener, "127.0.0.1", 100)) == {0, 1}
        listener.apply(LIVE_B)
        assert set(count_arrivals(listener, "127.0.0.1", 100)) == {2, 3}
        with listener.connect_probe("a", 1, 5.0) as probe:
            peer = probe.getsockname()[:2]
            assert arrivals(listener.all_sockets(), [peer])[peer] == 1


def test_the_trap_is_real() -> None:
    """Without `verify`, the old program leads the live row's clients into the standby slot."""
    with listening() as listener:
        listener.apply(Steering("a", {"a": (0,), "b": (0, 1)}))
        shut_down(listener.all_sockets()[0])
        assert count_arrivals(listener, "127.0.0.1", 50, sockets=listener.all_sockets()[1:]) == {2: 50}
        listener.verify()
        assert count_arrivals(listener, "127.0.0.1", 50) == {0: 50}


def test_steering_works_when_the_first_socket_has_left() -> None:
    with listening() as listener:
        shut_down(listener.all_sockets()[0])
        listener.apply(Steering("b", {"a": (0, 1), "b": (0,)}))
        assert count_arrivals(listener, "127.0.0.1", 100, sockets=listener.all_sockets()[1:]) == {1: 100}
        listener.verify()
        listener.apply(LIVE_A)
        assert set(count_arrivals(listener, "127.0.0.1", 100)) == {0, 1}


def test_drops_of_an_overloaded_socket_are_no_proof(monkeypatch: pytest.MonkeyPatch) -> None:
    drops = 0

    def busy(_: socket.socket) -> int:
        nonlocal drops
        drops += 1
        time.sleep(0.05)  # time enough for the connection to be made elsewhere
        return drops

    with listening() as listener:
        listener.apply(LIVE_A)
        shut_down(listener.all_sockets()[0])
        listener.all_sockets()[0].listen()
        monkeypatch.setattr(order, "_drops", busy)
        assert not listener._order_holds()


def test_an_index_taken_by_a_stranger_is_not_steered_to() -> None:
    with listening() as listener, socket.socket() as foreign:
        foreign.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        foreign.bind(("127.0.0.1", port_of(listener)))
        foreign.listen()
        shut_down(listener.all_sockets()[1])  # the stranger moves into its index
        with pytest.raises(ListenError, match=r"cannot steer .* process of the same user joined it"):
            listener.verify()


# Sockets passed on


def test_restore_finds_the_order_of_shuffled_sockets() -> None:
    with listening() as listener:
        a0, a1, b0, b1 = listener.all_sockets()
        restored = SteeredListener.restore(listener.address, [b1, a0, a1, b0], 2, steering=LIVE_A, backlog=64)
        assert restored.address == listener.address
        assert restored.sockets("a") == (b1, a0)
        assert set(count_arrivals(restored, "127.0.0.1", 100)) == {0, 1}
        restored.apply(Steering("b", {"a": (0,), "b": (1,)}))
        assert count_arrivals(restored, "127.0.0.1", 100) == {3: 100}


def test_restore_in_another_process() -> None:
    with listening() as listener:
        listener.apply(LIVE_A)
        ours, theirs = socket.socketpair()
        child = os.fork()
        if child == 0:
            with contextlib.suppress(BaseException):
                _, descriptors, _, _ = socket.recv_fds(theirs, 1, 8)
                sockets = [socket.socket(fileno=descriptor) for descriptor in descriptors]
                SteeredListener.restore(listener.address, sockets, 2, steering=LIVE_B, backlog=64)
                os._exit(0)
            os._exit(1)
        socket.send_fds(ours, [b"x"], [sock.fileno() for sock in listener.all_sockets()])
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert set(count_arrivals(listener, "127.0.0.1", 100)) == {2, 3}
        ours.close()
        theirs.close()


def test_restore_refuses_what_it_can_not_vouch_for() -> None:
    with listening() as listener, listening() as another, socket.socket() as plain:
        plain.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        plain.bind(("127.0.0.1", 0))
        plain.listen()
        plain.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 0)
        sockets = listener.all_sockets()

        def restore(address: str, *given: socket.socket) -> None:
            SteeredListener.restore(address, given, 2, steering=LIVE_A, backlog=64)

        with pytest.raises(ListenError, match="3 sockets for 2 rows"):
            restore(listener.address, *sockets[:3])
        with pytest.raises(ListenError, match="a socket is bound to"):
            restore("127.0.0.1:0", *sockets[:3], another.all_sockets()[0])
        with pytest.raises(ListenError, match="a socket is bound to"):
            restore(listener.address, *sockets[:3], another.all_sockets()[0])
        with pytest.raises(ListenError, match="lacks SO_REUSEPORT"):
            SteeredListener.restore("127.0.0.1:0", [plain, sockets[0]], 1, steering=LIVE_A, backlog=64)
        with pytest.raises(ListenError, match="are the same socket"):
            restore(listener.address, *sockets[:3], sockets[0])
        assert all(sock.fileno() >= 0 for sock in sockets)


class Server:
    """Accepts on some sockets in a thread and answers each connection with its letter."""

    def __init__(self, letter: bytes, sockets: tuple[socket.socket, ...]) -> None:
        self.letter, self.sockets = letter, sockets
        self.answered = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Server:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.is_set():
            for sock in self.sockets:
                with contextlib.suppress(BlockingIOError):
                    self._answer(sock.accept()[0])
            time.sleep(0.0005)

    def _answer(self, connection: socket.socket) -> None:
        with connection:
            connection.settimeout(10)
            if connection.recv(1):
                connection.sendall(self.letter)
                self.answered += 1


def ask(port: int) -> bytes:
    with socket.create_connection(("127.0.0.1", port), timeout=60) as sock:
        sock.sendall(b"?")
        return sock.recv(1)


def test_no_client_notices_checks_probes_and_restores() -> None:
    answers: Counter[bytes] = Counter()
    stop = threading.Event()
    with listening() as listener, Server(b"a", listener.sockets("a")) as server:
        listener.apply(LIVE_A)

        def client() -> None:
            while not stop.is_set():
                answers[ask(port_of(listener))] += 1

        clients = [threading.Thread(target=client) for _ in range(4)]
        for thread in clients:
            thread.start()
        deadline = time.monotonic() + 30
        while server.answered < 300 and time.monotonic() < deadline:
            listener.prepare("b", 2)
            SteeredListener.restore(listener.address, listener.all_sockets(), 2, steering=LIVE_A, backlog=64)
            listener.connect_probe("b", 1, 5.0).close()
        stop.set()
        for thread in clients:
            thread.join()
    assert set(answers) == {b"a"}
    assert answers[b"a"] == server.answered >= 300


def test_a_full_backlog_survives_the_switch() -> None:
    """Clients queued in the old slot, and clients the full queue keeps out: each is answered, none is reset."""
    answers: list[bytes] = []
    with listening(rows=1, backlog=8) as listener:
        listener.apply(Steering("a", {"a": (0,), "b": (0,)}))
        clients = [threading.Thread(target=lambda: answers.append(ask(port_of(listener)))) for _ in range(60)]
        for thread in clients:
            thread.start()
        deadline = time.monotonic() + 10
        while backlog_length(listener.all_sockets()[0]) <= 8:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        listener.apply(Steering("b", {"a": (0,), "b": (0,)}))
        with Server(b"b", listener.sockets("b")):
            while b"b" not in answers:
                assert time.monotonic() < deadline + 10
                time.sleep(0.01)
            assert b"a" not in answers
            with Server(b"a", listener.sockets("a")):
                for thread in clients:
                    thread.join()
    counts = Counter(answers)
    assert counts[b"a"] + counts[b"b"] == 60
    assert counts[b"a"] >= 9


def test_many_queued_connections_outlive_many_switches() -> None:
    with listening(backlog=1024) as listener, Clients() as clients:
        peers: dict[tuple[str, int], set[int]] = {}
        for turn in range(20):
            listener.apply((LIVE_A, LIVE_B)[turn % 2])
            listener.verify()
            for _ in range(20):
                peers[clients.connect("127.0.0.1", port_of(listener))] = ({0, 1}, {2, 3})[turn % 2]
        found = arrivals(listener.all_sockets(), list(peers))
        assert len(found) == 400
        assert all(found[peer] in slots for peer, slots in peers.items())


def test_a_kernel_without_the_means_is_an_error_not_a_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOPROTOOPT, "Protocol not available")

    monkeypatch.setattr(order, "_drops", refuse)
    with pytest.raises(ListenError, match=r"cannot listen on .*Protocol not available"):
        SteeredListener.open("127.0.0.1:0", rows=1, backlog=16)
    monkeypatch.setattr(tcp_module, "attach", refuse)
    with pytest.raises(ListenError, match="Protocol not available"):
        SteeredListener.open("127.0.0.1:0", rows=1, backlog=16)
