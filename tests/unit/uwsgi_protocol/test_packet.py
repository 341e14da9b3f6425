from __future__ import annotations

import socket
import struct
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st
from peer import packet, sized

from instar.engines.uwsgi_protocol.packet import GoneError, RefusedError, parse, read_head

TEXT = st.text(st.characters(max_codepoint=255), max_size=300)
NAMES = TEXT.filter(bool)


def received(data: bytes, *, limit: int = 65535, timeout: float = 4.0, close: bool = True):
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.sendall(data)
        if close:
            ours.close()
        return read_head(theirs, limit=limit, timeout=timeout)


@given(st.dictionaries(NAMES, TEXT, max_size=20), st.binary(max_size=2000))
def test_what_was_sent_is_what_is_read(variables: dict[str, str], body: bytes) -> None:
    head = received(packet(variables) + body)
    assert (head.modifier1, head.variables, head.rest) == (0, variables, body)


@given(st.binary(max_size=400))
def test_any_bytes_are_variables_or_refused(block: bytes) -> None:
    try:
        found = parse(block)
    except RefusedError as refused:
        assert refused.status == "400 Bad Request"
    else:
        # Nothing was lost or made up: it is the same block again, but for names that came twice.
        again = packet(found)[4:]
        assert again == block or len(again) < len(block)


@given(st.dictionaries(NAMES, TEXT, min_size=1, max_size=5), st.data())
def test_every_shorter_block_is_refused(variables: dict[str, str], data: st.DataObject) -> None:
    block = packet(variables)[4:]
    ends = {0}
    for name, value in variables.items():
        ends.add(max(ends) + 4 + len(name.encode("latin-1")) + len(value.encode("latin-1")))
    cut = data.draw(st.integers(0, len(block) - 1).filter(lambda place: place not in ends))
    with pytest.raises(RefusedError):
        parse(block[:cut])


def test_of_equal_names_the_last_counts() -> None:
    assert parse(sized(b"A") + sized(b"1") + sized(b"A") + sized(b"2")) == {"A": "2"}


def test_a_head_that_is_exactly_as_large_as_allowed_passes() -> None:
    data = packet({"A": "x" * 100})
    assert received(data, limit=len(data) - 4).variables == {"A": "x" * 100}
    with pytest.raises(RefusedError) as raised:
        received(data, limit=len(data) - 5)
    assert raised.value.status.startswith("431 ")
    assert "buffer_size" in str(raised.value)


def test_the_largest_head_of_the_protocol_passes() -> None:
    value = "v" * (65535 - 5)
    assert received(packet({"A": value})).variables == {"A": value}


@pytest.mark.parametrize("data", [b"", b"\0", struct.pack("<BHB", 0, 10, 0), packet({"A": "b"})[:-1]])
def test_a_peer_that_goes_away_is_gone(data: bytes) -> None:
    with pytest.raises(GoneError):
        received(data)


@pytest.mark.parametrize("data", [b"", b"\0\1", packet({"A": "b"})[:-1]])
def test_a_peer_that_takes_its_time_is_refused(data: bytes) -> None:
    with pytest.raises(RefusedError) as raised:
        received(data, timeout=0.05, close=False)
    assert raised.value.status.startswith("408 ")


def test_the_time_limit_is_for_the_whole_head() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        data = iter(packet({"A": "b" * 100}))

        class Trickle:
            """Always has one more byte, just in time."""

            def settimeout(self, seconds: float) -> None:
                theirs.settimeout(seconds)

            def recv(self, size: int, flags: int = 0) -> bytes:
                if flags:
                    raise BlockingIOError

                time.sleep(0.01)
                return bytes((next(data),))

        with pytest.raises(RefusedError):
            read_head(Trickle(), limit=65535, timeout=0.2)  # type: ignore[arg-type]


def test_http_is_recognised() -> None:
    with pytest.raises(RefusedError) as raised:
        received(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    assert "HTTP" in str(raised.value)
