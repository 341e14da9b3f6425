"""Every program against real sockets: hundreds of connections, found again in the backlog they reached."""

from __future__ import annotations

import ipaddress
from collections import Counter

import pytest
from socket_tools import ADDRESSES, Clients, arrivals, bounds, count_arrivals, listening, needs_ipv6, port_of, use

from instar.listeners import Canary, Network, Steering
from instar.listeners.steering import ProbeMatch, constant, networks, share, spread, steer

ROWS = {"a": (0, 1, 2), "b": (0, 1, 2)}


def nets(*texts: str) -> list[Network]:
    return [ipaddress.ip_network(text) for text in texts]


@pytest.mark.parametrize(("address", "host"), ADDRESSES)
def test_constant(address: str, host: str) -> None:
    with listening(address, rows=3) as listener:
        for index in (5, 0, 3):
            use(listener, constant(index))
            assert count_arrivals(listener, host, 100) == {index: 100}


@pytest.mark.parametrize(("address", "host"), ADDRESSES)
@pytest.mark.parametrize("rows", [(3, 4, 5), (0, 2, 3, 5)], ids=["run", "gaps"])
def test_spread(address: str, host: str, rows: tuple[int, ...]) -> None:
    with listening(address, rows=3) as listener:
        use(listener, spread(rows))
        hits = count_arrivals(listener, host, 400)
    low, high = bounds(400, 1 / len(rows))
    assert set(hits) == set(rows)
    assert all(low <= count <= high for count in hits.values()), hits


@pytest.mark.parametrize(("address", "host"), ADDRESSES)
def test_share(address: str, host: str) -> None:
    with listening(address, rows=2) as listener:
        use(listener, share(0.2, [2, 3], [0, 1]))
        hits = count_arrivals(listener, host, 600)
    low, high = bounds(600, 0.2)
    assert low <= hits[2] + hits[3] <= high, hits
    assert min(hits[0], hits[1], hits[2], hits[3]) > 0


@pytest.mark.parametrize(
    ("address", "clients"),
    [
        ("127.0.0.1:0", nets("127.0.0.2/32")),
        ("0.0.0.0:0", nets("10.0.0.0/8", "127.0.0.2/31")),
        pytest.param("[::]:0", nets("127.0.0.2/32", "2001:db8::/32"), marks=needs_ipv6),
        pytest.param("[::]:0", nets("::ffff:127.0.0.2/128", "::ffff:10.0.0.0/104"), marks=needs_ipv6),
    ],
)
def test_networks_ipv4(address: str, clients: list[Network]) -> None:
    with listening(address) as listener:
        use(listener, networks(clients, [3], [1]))
        assert count_arrivals(listener, "127.0.0.1", 150, source="127.0.0.2") == {3: 150}
        assert count_arrivals(listener, "127.0.0.1", 150, source="127.0.0.4") == {1: 150}


@needs_ipv6
@pytest.mark.parametrize("address", ["[::1]:0", "[::]:0"])
def test_networks_ipv6(address: str) -> None:
    with listening(address) as listener:
        use(listener, networks(nets("2001:db8::/33", "::/127", "127.0.0.0/8"), [3], [1]))
        assert count_arrivals(listener, "::1", 150) == {3: 150}
        use(listener, networks(nets("2001:db8::/33", "::/128", "::1:1/128"), [3], [1]))
        assert count_arrivals(listener, "::1", 150) == {1: 150}


@pytest.mark.parametrize(("address", "host"), ADDRESSES)
def test_probe_alone_reaches_its_row(address: str, host: str) -> None:
    with listening(address) as listener, Clients() as clients:
        port = port_of(listener)
        probe = clients.reserve(host)
        source = probe.getsockname()[:2]
        use(listener, steer([0], probe=ProbeMatch(*source), probe_index=3))
        others = [clients.connect(host, port) for _ in range(100)]
        probe.connect((host, port))
        others += [clients.connect(host, port) for _ in range(100)]
        found = arrivals(listener.all_sockets(), [source, *others])
        assert found[source] == 3
        assert Counter(found.values()) == {3: 1, 0: 200}


@pytest.mark.parametrize("address", ["127.0.0.1:0", "0.0.0.0:0"])
def test_the_probes_port_from_another_address_is_a_client(address: str) -> None:
    with listening(address) as listener, Clients() as clients:
        port = port_of(listener)
        source = clients.reserve("127.0.0.1").getsockname()
        use(listener, steer([0], probe=ProbeMatch(*source), probe_index=3))
        client = clients.connect("127.0.0.1", port, source="127.0.0.2", source_port=source[1])
        assert arrivals(listener.all_sockets(), [client])[client] == 0


@pytest.mark.parametrize("address", ["127.0.0.1:0", pytest.param("[::]:0", marks=needs_ipv6)])
def test_ip_options_move_the_port_but_not_the_match(address: str) -> None:
    with listening(address) as listener, Clients() as clients:
        port = port_of(listener)
        no_operation = b"\x01" * 8
        probe = clients.reserve("127.0.0.1", options=no_operation)
        source = probe.getsockname()
        use(listener, steer([0], probe=ProbeMatch(*source), probe_index=3))
        probe.connect(("127.0.0.1", port))
        other = clients.connect("127.0.0.1", port, options=no_operation)
        found = arrivals(listener.all_sockets(), [source, other])
        assert (found[source], found[other]) == (3, 0)


@pytest.mark.parametrize("address", ["0.0.0.0:0", pytest.param("[::]:0", marks=needs_ipv6)])
def test_networks_share_and_rows_together(address: str) -> None:
    canary = Canary(share=0.3, networks=tuple(nets("127.0.0.2/32")))
    with listening(address, rows=3) as listener:
        listener.apply(Steering("b", {"a": (1,), "b": (0, 2)}, canary))
        assert count_arrivals(listener, "127.0.0.1", 200, source="127.0.0.2") == {1: 200}
        hits = count_arrivals(listener, "127.0.0.1", 500)
    low, high = bounds(500, 0.3)
    assert set(hits) == {1, 3, 5}
    assert low <= hits[1] <= high, hits
