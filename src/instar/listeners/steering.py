"""Steering programs: which index of a reuseport group takes a new connection.

A program looks at the packet that opens the connection. It runs with the data pointer behind the TCP header, so
every load is relative to the network header; and since a dual-stack group sees packets of both IP versions, each
match on addresses checks the version first. An index outside of the group would make the kernel choose by hash
among *all* sockets, the standby's too: builders refuse nothing here, their caller knows the group's size.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

from instar.errors import ConfigError
from instar.listeners.base import Canary, Network
from instar.listeners.bpf import NETWORK_HEADER, Assembler, Program, attach

__all__ = ["MAX_NETWORKS", "ProbeMatch", "attach", "constant", "networks", "share", "spread", "steer"]

#: Client networks in one program, after merging. 12 instructions each for IPv6; a kernel before 6.7 takes about
#: 2 500 (net.core.optmem_max).
MAX_NETWORKS: Final = 128

_MAPPED: Final = ipaddress.IPv6Network("::ffff:0:0/96")
_IPV6_SOURCE, _IPV6_NEXT_HEADER, _IPV6_TCP = 8, 6, 40
_IPV4_SOURCE = 12


class ProbeMatch(NamedTuple):
    """Connections from exactly this address *and* port: with the port alone, a remote client could match."""

    address: str
    port: int


def constant(index: int) -> Program:
    """Every connection to one index."""
    return spread((index,))


def spread(indices: Sequence[int]) -> Program:
    """Each connection to one of `indices`, at random, all equally likely."""
    return steer(indices)


def share(fraction: float, canary: Sequence[int], live: Sequence[int]) -> Program:
    """A share of the connections (0 < fraction < 1) to `canary`, the rest to `live`."""
    return steer(live, canary=Canary(share=fraction), canary_indices=canary)


def networks(clients: Iterable[Network], canary: Sequence[int], live: Sequence[int]) -> Program:
    """Connections from these networks to `canary`, the rest to `live`."""
    return steer(live, canary=Canary(networks=tuple(clients)), canary_indices=canary)


def steer(
    live: Sequence[int],
    *,
    canary: Canary | None = None,
    canary_indices: Sequence[int] = (),
    probe: ProbeMatch | None = None,
    probe_index: int = 0,
) -> Program:
    """First match wins: the probe, the canary's networks, the canary's share, and the rest to `live`.

    Raises ConfigError for a canary that can't be expressed, ValueError for an empty list of indices.
    """
    asm = Assembler()
    if probe is not None:
        after = asm.fresh("after_probe")
        _match_probe(asm, probe, otherwise=after)
        asm.give(probe_index)
        asm.label(after)
    if canary is not None and (canary.networks or canary.share):
        chosen = asm.fresh("canary")
        _match_networks(asm, canary.networks, chosen)
        _match_share(asm, canary.share, chosen)
        _spread(asm, live)
        asm.label(chosen)
        _spread(asm, canary_indices)
    else:
        _spread(asm, live)
    return asm.assemble()


def _spread(asm: Assembler, indices: Sequence[int]) -> None:
    """`random % n`, then one branch per run of consecutive indices. 2**32 % n is too small a bias to matter."""
    if not indices:
        raise ValueError("cannot steer to an empty list of rows")
    if len(indices) == 1:
        asm.give(indices[0])
        return
    asm.load_random()
    asm.modulo(len(indices))
    runs = _runs(indices)
    for position, (start, end, first) in enumerate(runs):
        following = asm.fresh("run") if position < len(runs) - 1 else None
        if following:
            asm.if_at_least(end, then=following)
        if first != start:
            asm.add(first - start)
        asm.give_accumulator()
        if following:
            asm.label(following)


def _runs(indices: Sequence[int]) -> list[tuple[int, int, int]]:
    """Positions [start, end) that hold consecutive indices, and the first of these indices."""
    runs: list[tuple[int, int, int]] = []
    for position, index in enumerate(indices):
        if runs and index - position == runs[-1][2] - runs[-1][0]:
            start, _, first = runs[-1]
            runs[-1] = (start, position + 1, first)
        else:
            runs.append((position, position + 1, index))
    return runs


def _match_version(asm: Assembler, version: int, otherwise: str) -> None:
    matched = asm.fresh("version")
    asm.load_byte(NETWORK_HEADER)
    asm.shift_right(4)
    asm.if_equal(version, then=matched)
    asm.jump(otherwise)  # may be further away than a branch reaches
    asm.label(matched)


def _match_probe(asm: Assembler, probe: ProbeMatch, otherwise: str) -> None:
    address = ipaddress.ip_address(probe.address.partition("%")[0])
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped:
        address = address.ipv4_mapped
    _match_version(asm, address.version, otherwise)
    if isinstance(address, ipaddress.IPv4Address):
        asm.load_word(NETWORK_HEADER + _IPV4_SOURCE)
        asm.if_equal(int(address), otherwise=otherwise)
        asm.load_header_length(NETWORK_HEADER)  # the header may carry options
        asm.load_half_after_header(NETWORK_HEADER)
    else:
        # Our own probe carries no extension header. A packet that does is somebody else's.
        asm.load_byte(NETWORK_HEADER + _IPV6_NEXT_HEADER)
        asm.if_equal(6, otherwise=otherwise)
        for number, word in enumerate(_words(address)):
            asm.load_word(NETWORK_HEADER + _IPV6_SOURCE + 4 * number)
            asm.if_equal(word, otherwise=otherwise)
        asm.load_half(NETWORK_HEADER + _IPV6_TCP)
    asm.if_equal(probe.port, otherwise=otherwise)


def _match_share(asm: Assembler, fraction: float, chosen: str) -> None:
    if fraction == 0:
        return
    if not 0 < fraction < 1:
        raise ConfigError(
            f"cannot send a share of {fraction} of the clients to the canary: it must lie between 0 and 1"
        )
    rest = asm.fresh("rest")
    asm.load_random()
    asm.if_at_least(min(max(round(fraction * 2**32), 1), 2**32 - 1), then=rest)
    asm.jump(chosen)
    asm.label(rest)


def _match_networks(asm: Assembler, clients: Sequence[Network], chosen: str) -> None:
    version4, version6 = split_networks(clients)
    count = len(version4) + len(version6)
    if count > MAX_NETWORKS:
        raise ConfigError(f"cannot steer {count} client networks: the limit is {MAX_NETWORKS}; use larger networks")
    if version4:
        _match_networks_of(asm, 4, version4, chosen)
    if version6:
        _match_networks_of(asm, 6, version6, chosen)


def _match_networks_of(asm: Assembler, version: int, clients: Sequence[Network], chosen: str) -> None:
    done = asm.fresh("done")
    _match_version(asm, version, done)
    offset = _IPV4_SOURCE if version == 4 else _IPV6_SOURCE
    for number in range(1 if version == 4 else 4):
        asm.load_word(NETWORK_HEADER + offset + 4 * number)
        asm.store_scratch(number)
    for network in clients:
        following = asm.fresh("network")
        for number, (word, mask) in enumerate(
            zip(_words(network.network_address), _words(network.netmask), strict=True)
        ):
            if mask:
                asm.load_scratch(number)
                if mask != 0xFFFFFFFF:
                    asm.bits(mask)
                asm.if_equal(word, otherwise=following)
        asm.jump(chosen)
        asm.label(following)
    asm.label(done)


def split_networks(
    clients: Iterable[Network],
) -> tuple[list[ipaddress.IPv4Network], list[ipaddress.IPv6Network]]:
    """Merged networks by the version of the packets they match: a v4-mapped one (::ffff:10.0.0.0/104) matches IPv4.

    A wider IPv6 network, even `::/0`, matches no IPv4 client.
    """
    version4: list[ipaddress.IPv4Network] = []
    version6: list[ipaddress.IPv6Network] = []
    for network in clients:
        if isinstance(network, ipaddress.IPv4Network):
            version4.append(network)
        elif network.subnet_of(_MAPPED):
            low = int(network.network_address) & 0xFFFFFFFF
            version4.append(ipaddress.IPv4Network((low, network.prefixlen - 96)))
        else:
            version6.append(network)
    return list(ipaddress.collapse_addresses(version4)), list(ipaddress.collapse_addresses(version6))


def _words(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> list[int]:
    packed = address.packed
    return [int.from_bytes(packed[start : start + 4], "big") for start in range(0, len(packed), 4)]
