"""Messages over a real SEQPACKET pair, with descriptors, and from a newer or broken peer."""

from __future__ import annotations

import json
import os
import resource
import socket

import pytest

from instar.runtime import channel
from instar.runtime.channel import Channel, Exited, Forked, Hello


@pytest.fixture
def ends() -> tuple[Channel, Channel]:
    left, right = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    right.setblocking(False)
    return Channel(left), Channel(right)


def test_each_message_arrives_as_it_was_sent(ends: tuple[Channel, Channel]) -> None:
    sent = [Hello(1, 2, 3), Exited(0, 9, -9, "killed", 0.5), channel.Commit()]
    for message in sent:
        ends[0].send(message)
    received = [ends[1].receive() for _ in sent]
    assert [item[0] for item in received if item] == sent


def test_descriptors_ride_along_and_are_closed_on_exec(ends: tuple[Channel, Channel]) -> None:
    reader, writer = os.pipe()
    ends[0].send(Forked(0, 0, 1, 2), (writer,))
    os.close(writer)
    received = ends[1].receive()
    assert received is not None
    [fd] = received[1]
    assert not os.get_inheritable(fd)
    os.write(fd, b"x")
    assert os.read(reader, 1) == b"x"
    os.close(fd)
    os.close(reader)


def test_unknown_types_and_fields_are_ignored(ends: tuple[Channel, Channel]) -> None:
    ends[0].sock.send(json.dumps({"type": "invented-later", "x": 1}).encode())
    ends[0].sock.send(json.dumps({"type": "stop", "timeout": 3, "invented_later": 1}).encode())
    assert ends[1].receive() == (None, [])
    assert ends[1].receive() == (channel.Stop(3), [])


def test_end_of_file_and_silence_are_told_apart(ends: tuple[Channel, Channel]) -> None:
    with pytest.raises(BlockingIOError):
        ends[1].receive()
    ends[0].close()
    assert ends[1].receive() is None


def test_a_descriptor_limit_never_swallows_sockets_in_silence(ends: tuple[Channel, Channel]) -> None:
    reader, writer = os.pipe()
    ends[0].send(channel.Sockets("x", 20), (reader,) * 20)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(reader, writer, ends[0].fileno(), ends[1].fileno()) + 5, hard))
    try:
        with pytest.raises(ValueError, match="truncated"):
            ends[1].receive()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        os.close(reader)
        os.close(writer)


def test_the_peer_is_known_by_its_credentials(ends: tuple[Channel, Channel]) -> None:
    assert ends[0].peer() == (os.getpid(), os.getuid(), os.getgid())
