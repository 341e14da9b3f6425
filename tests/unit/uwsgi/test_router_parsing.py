"""Whatever bytes come: a packet says what it was made of, and an answer is read or refused, never anything else."""

# ruff: noqa: E501 - the pieces in a few lines
from __future__ import annotations

import asyncio
import contextlib

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from router_world import parse_block

from instar.uwsgi.answer import BadAnswerError, parse_head, read_body, read_head
from instar.uwsgi.packet import MAX_BLOCK, TooLongError, _decoded, encode

anything = settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.too_slow])


@anything
@given(st.dictionaries(st.from_regex(r"[A-Z_]{1,20}", fullmatch=True), st.binary(max_size=300), max_size=30))
def test_a_packet_says_what_it_was_made_of(variables: dict[str, bytes]) -> None:
    packet = encode([(name.encode(), value) for name, value in variables.items()])
    assert packet[:1] + packet[3:4] == b"\0\0"
    assert int.from_bytes(packet[1:3], "little") == len(packet) - 4
    assert parse_block(packet[4:]) == {name: value.decode("latin-1") for name, value in variables.items()}


def test_the_longest_packet() -> None:
    assert len(encode([(b"N", b"x" * (MAX_BLOCK - 5))])) == MAX_BLOCK + 4
    for size in (MAX_BLOCK - 4, MAX_BLOCK + 1):
        with pytest.raises(TooLongError):
            encode([(b"N", b"x" * size)])


@anything
@given(st.lists(st.sampled_from([b".", b"..", b"", b"a", b"%2e", b"%2E%2e", b"b%2Fc", b"...", b".x"]), max_size=8))
def test_no_dot_segment_is_left_in_a_path(segments: list[bytes]) -> None:
    found = _decoded(b"/" + b"/".join(segments))
    assert found.startswith(b"/")
    if not any(b"%" in segment for segment in segments):
        assert not {b".", b".."} & set(found.split(b"/"))


PIECES = [
    b"HTTP/1.1 200 OK", b"HTTP/1.0 404 ", b"HTTP/1.1 100 Continue", b"\r\n", b"\r\n\r\n", b"\n", b"\r", b" ", b"\0", b"\xff",
    b"Content-Length: 3", b"Content-Length: 5", b"Transfer-Encoding: chunked", b"X: y", b"Connection: close", b"3", b"abc",
    b"0", b"fffffffffffff", b";x", b":",
]  # fmt: skip


@anything
@given(st.lists(st.sampled_from(PIECES), max_size=14))
def test_an_answer_is_read_or_refused(pieces: list[bytes]) -> None:
    async def read() -> None:
        reader = asyncio.StreamReader(limit=1000)
        reader.feed_data(b"".join(pieces))
        reader.feed_eof()
        head = await read_head(reader)
        assert head.status >= 200
        assert not {b"connection", b"transfer-encoding"} & {name.lower() for name, _ in head.headers}
        found = b"".join([piece async for piece in read_body(reader, head)])
        assert head.length is None or len(found) == head.length

    with contextlib.suppress(BadAnswerError):
        asyncio.run(read())


@anything
@given(st.binary(max_size=200))
def test_a_head_is_read_or_refused(raw: bytes) -> None:
    for text in (raw, b"HTTP/1.1 200 OK\r\n" + raw):
        with contextlib.suppress(BadAnswerError):
            for name, value in parse_head(text).headers:
                assert not set(name + value) & set(b"\r\n\0")
