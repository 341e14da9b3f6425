from __future__ import annotations

import ipaddress
import socket
from collections import Counter

import pytest
from cbpf_machine import Machine
from hypothesis import given, settings
from hypothesis import strategies as st

from instar.errors import ConfigError
from instar.listeners import Canary
from instar.listeners.bpf import attach
from instar.listeners.steering import (
    MAX_NETWORKS,
    ProbeMatch,
    constant,
    networks,
    share,
    split_networks,
    spread,
    steer,
)

IP = ipaddress.IPv4Address | ipaddress.IPv6Address


def packet(source: IP, port: int = 4000, options: int = 0) -> bytes:
    """The headers of a connection's first packet. `options`: words of IPv4 options."""
    tcp = port.to_bytes(2, "big") + bytes(18)
    if source.version == 4:
        header = bytes([0x45 + options]) + bytes(8) + b"\x06" + bytes(2) + source.packed + bytes(4)
        return header + b"\x01" * (4 * options) + tcp
    return b"\x60" + bytes(5) + b"\x06\x40" + source.packed + bytes(16) + tcp


def v4(text: str) -> ipaddress.IPv4Address:
    return ipaddress.IPv4Address(text)


v4_addresses = st.ip_addresses(v=4)
v6_addresses = st.ip_addresses(v=6)
ports = st.integers(1, 65535)
indices = st.lists(st.integers(0, 300), min_size=1, max_size=40)


@st.composite
def client_networks(draw: st.DrawFn, near: IP | None = None) -> ipaddress.IPv4Network | ipaddress.IPv6Network:
    address = near if near is not None and draw(st.booleans()) else draw(st.ip_addresses())
    length = draw(st.integers(0, address.max_prefixlen))
    return ipaddress.ip_network((address, length), strict=False)


@given(indices, st.integers(0, 2**32 - 1))
def test_spread_takes_the_row_that_the_random_number_names(rows: list[int], random: int) -> None:
    assert Machine(random=lambda: random).run(spread(rows)) == rows[random % len(rows)]


def test_a_run_of_rows_needs_no_branch() -> None:
    assert len(spread(range(8))) == 3
    assert len(spread(range(8, 16))) == 4
    assert len(constant(3)) == 1
    assert len(spread([0, 1, 2, 4, 5, 6])) == 6


def test_nothing_to_spread_over_is_refused() -> None:
    with pytest.raises(ValueError, match="empty list of rows"):
        spread([])


@given(st.data())
@settings(max_examples=300)
def test_networks_match_what_ipaddress_says(data: st.DataObject) -> None:
    client = data.draw(st.ip_addresses())
    clients = data.draw(st.lists(client_networks(client), min_size=1, max_size=20))
    mapped = [network for network in clients if network.version == 6 and network.subnet_of(MAPPED)]
    expected = any(client in network for network in clients if network not in mapped)
    assert Machine(packet(client)).run(networks(clients, [7], [3])) == (7 if expected else 3)


MAPPED = ipaddress.ip_network("::ffff:0:0/96")


@given(v4_addresses, st.integers(0, 32), v4_addresses)
def test_mapped_networks_match_ipv4_packets(base: ipaddress.IPv4Address, length: int, client: IP) -> None:
    mapped = ipaddress.IPv6Network((f"::ffff:{base}", 96 + length), strict=False)
    inside = client in ipaddress.IPv4Network((base, length), strict=False)
    assert Machine(packet(client)).run(networks([mapped], [7], [3])) == (7 if inside else 3)


def test_a_wide_ipv6_network_matches_no_ipv4_client() -> None:
    program = networks([ipaddress.ip_network("::/0")], [7], [3])
    assert Machine(packet(v4("10.0.0.1"))).run(program) == 3
    assert Machine(packet(ipaddress.ip_address("2001:db8::1"))).run(program) == 7


@given(st.floats(0.0001, 0.9999), st.integers(0, 2**32 - 1))
def test_share_compares_a_random_number(fraction: float, random: int) -> None:
    chosen = Machine(random=lambda: random).run(share(fraction, [7], [3])) == 7
    assert chosen == (random < round(fraction * 2**32))


@pytest.mark.parametrize("fraction", [-0.1, 1.0, 1.5])
def test_an_impossible_share_is_refused(fraction: float) -> None:
    with pytest.raises(ConfigError, match="must lie between 0 and 1"):
        share(fraction, [1], [0])


def test_a_tiny_share_is_never_all_and_never_nothing() -> None:
    assert Machine(random=lambda: 0).run(share(1e-300, [7], [3])) == 7
    assert Machine(random=lambda: 2**32 - 1).run(share(1 - 1e-16, [7], [3])) == 3


@given(st.ip_addresses(), st.ip_addresses(), ports, ports, st.integers(0, 10))
def test_probe_needs_address_and_port(probe: IP, client: IP, port: int, other_port: int, options: int) -> None:
    match = ProbeMatch(str(probe), port)
    if not (probe.version == 6 and probe.ipv4_mapped):  # no packet comes from such an address
        program = steer([3], probe=match, probe_index=9)
        assert Machine(packet(probe, port, options)).run(program) == 9
        assert Machine(packet(probe, other_port, options)).run(program) == (9 if other_port == port else 3)
        assert Machine(packet(client, port, options)).run(program) == (9 if client == probe else 3)


def test_a_mapped_probe_address_matches_ipv4() -> None:
    program = steer([3], probe=ProbeMatch("::ffff:127.0.0.1", 5), probe_index=9)
    assert Machine(packet(v4("127.0.0.1"), 5)).run(program) == 9


def test_an_ipv6_packet_with_an_extension_header_is_no_probe() -> None:
    program = steer([3], probe=ProbeMatch("::1", 5), probe_index=9)
    raw = bytearray(packet(ipaddress.ip_address("::1"), 5))
    assert Machine(bytes(raw)).run(program) == 9
    raw[6] = 60
    assert Machine(bytes(raw)).run(program) == 3


def test_an_ipv6_packet_that_looks_like_the_ipv4_probe_is_a_client() -> None:
    # Read as IPv4, its header has no length, and so its first two bytes are the port.
    lookalike = packet(ipaddress.ip_address("2001:db8:7f00:1::1"))
    assert Machine(lookalike).run(steer([3], probe=ProbeMatch("127.0.0.1", 0x6000), probe_index=9)) == 3


@given(st.ip_addresses(), ports, st.integers(0, 2**32 - 1), st.data())
def test_the_first_match_of_a_combination_wins(client: IP, port: int, random: int, data: st.DataObject) -> None:
    clients = data.draw(st.lists(client_networks(client), max_size=5))
    canary = Canary(share=0.25, networks=tuple(clients))
    probed = data.draw(st.booleans())
    match = ProbeMatch(str(client) if probed else "192.0.2.1", port)
    program = steer([0, 1, 2], canary=canary, canary_indices=[8, 10], probe=match, probe_index=99)
    words = iter([random, random])
    answer = Machine(packet(client, port), random=lambda: next(words)).run(program)
    ip4, ip6 = split_networks(clients)
    inside = any(client in network for network in (*ip4, *ip6))
    if client.version == 6 and client.ipv4_mapped:
        return
    if probed or str(client) == "192.0.2.1":
        assert answer == 99
    elif inside or random < 2**30:
        assert answer == [8, 10][random % 2]
    else:
        assert answer == random % 3


@pytest.mark.parametrize("version", [4, 6])
def test_the_most_networks_fit_into_the_kernel(version: int) -> None:
    step = 2**10 if version == 4 else 2**40
    clients = [
        ipaddress.ip_network(ipaddress.ip_address(2**31 + i * step) if version == 4 else v6(i, step))
        for i in range(MAX_NETWORKS)
    ]
    program = steer([0], canary=Canary(networks=tuple(clients)), canary_indices=[1])
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        attach(sock, program)
    hits = Counter(Machine(packet(network.network_address)).run(program) for network in clients)
    assert hits == {1: MAX_NETWORKS}
    extra = ipaddress.ip_network("192.0.2.77/32")
    with pytest.raises(ConfigError, match=f"cannot steer {MAX_NETWORKS + 1} client networks: the limit is"):
        networks([*clients, extra], [1], [0])


def v6(number: int, step: int) -> ipaddress.IPv6Address:
    return ipaddress.IPv6Address(2**125 + number * step + 1)


def test_neighbouring_networks_are_merged_before_they_are_counted() -> None:
    halves = list(ipaddress.ip_network("10.0.0.0/16").subnets(new_prefix=28))
    assert len(halves) > MAX_NETWORKS
    program = networks(halves, [7], [3])
    assert Machine(packet(v4("10.0.200.1"))).run(program) == 7
    assert Machine(packet(v4("10.1.0.1"))).run(program) == 3


def test_an_empty_canary_changes_nothing() -> None:
    assert steer([1, 2], canary=Canary(), canary_indices=[5]) == spread([1, 2])
