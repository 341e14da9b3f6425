from __future__ import annotations

from pathlib import Path

import pytest

from instar.config.address import Address, absolute, parse_address
from instar.errors import ConfigError


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("127.0.0.1:8000", Address("tcp", "127.0.0.1", 8000)),
        ("localhost:0", Address("tcp", "localhost", 0)),
        ("my-host.example.org:65535", Address("tcp", "my-host.example.org", 65535)),
        ("[::]:80", Address("tcp", "::", 80)),
        ("[0:0::0:1]:80", Address("tcp", "::1", 80)),
        ("unix:/run/app.sock", Address("unix", path="/run/app.sock")),
        ("unix:///run/app.sock", Address("unix", path="/run/app.sock")),
        ("unix:run/app.sock", Address("unix", path="run/app.sock")),
        ("uwsgi:127.0.0.1:3031", Address("tcp", "127.0.0.1", 3031, protocol="uwsgi")),
        ("uwsgi://[::1]:3031", Address("tcp", "::1", 3031, protocol="uwsgi")),
        ("uwsgi:unix:/run/app.sock", Address("unix", path="/run/app.sock", protocol="uwsgi")),
    ],
)
def test_reads(text: str, expected: Address) -> None:
    assert parse_address(text) == expected
    assert parse_address(str(expected)) == expected


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("8000", 'write "127.0.0.1:8000"'),
        (":8000", '"0.0.0.0:8000" or, for IPv6 and IPv4, "[::]:8000"'),
        ("*:80", '"0.0.0.0:80"'),
        ("localhost", 'write "localhost:8000"'),
        ("::1:80", 'write "[::1]:80"'),
        ("[::zz]:80", "no IPv6 address"),
        ("300.0.0.1:80", "no IPv4 address"),
        ("host:http", "from 0 to 65535"),
        ("host:65536", "from 0 to 65535"),
        ("host:٣", "from 0 to 65535"),
        ("a b:80", "no host name"),
        ("http://localhost:80/", 'write "localhost:80"'),
        ("/run/app.sock", '"unix:/run/app.sock"'),
        ("unix:", "names no file"),
        ("unix:/run/", "names no file"),
        ("unix:@abstract", "use a path"),
        ("uwsgi:3031", 'write "uwsgi:127.0.0.1:3031"'),
        ("uwsgi:uwsgi:h:1", 'write "uwsgi:h:1"'),
    ],
)
def test_says_how_to_write_it(text: str, hint: str) -> None:
    with pytest.raises(ConfigError) as raised:
        parse_address(text)
    assert str(raised.value).startswith(f'cannot use the address "{text}": ')
    assert hint in str(raised.value)


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        ("0.0.0.0:80", "127.0.0.1:80", True),
        ("[::]:80", "127.0.0.1:80", True),
        ("[::]:80", "[::1]:80", True),
        ("0.0.0.0:80", "[::1]:80", False),
        ("127.0.0.1:80", "127.0.0.2:80", False),
        ("0.0.0.0:80", "0.0.0.0:81", False),
        ("127.0.0.1:0", "127.0.0.1:0", False),
        ("unix:/a", "unix:/a", True),
        ("unix:/a", "0.0.0.0:80", False),
        ("uwsgi:unix:/a", "unix:/a", True),
        ("uwsgi:127.0.0.1:80", "0.0.0.0:80", True),
    ],
)
def test_overlap(first: str, second: str, expected: bool) -> None:
    assert parse_address(first).overlaps(parse_address(second)) is expected
    assert parse_address(second).overlaps(parse_address(first)) is expected


def test_url_names_an_address_that_a_client_can_use() -> None:
    assert parse_address("0.0.0.0:80").url() == "http://127.0.0.1:80"
    assert parse_address("[::]:443").url(tls=True) == "https://[::1]:443"
    assert parse_address("unix:/a").url() == "unix:/a"
    assert parse_address("uwsgi:0.0.0.0:3031").url(tls=True) == "uwsgi:127.0.0.1:3031"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("127.0.0.2:1", True),
        ("[::1]:1", True),
        ("localhost:1", True),
        ("unix:/a", True),
        ("uwsgi:10.0.0.1:1", False),
        ("[::]:1", False),
        ("example.org:1", False),
    ],
)
def test_local_means_that_only_this_host_can_connect(text: str, expected: bool) -> None:
    assert parse_address(text).local is expected


def test_absolute_touches_only_relative_paths() -> None:
    base = Path("/srv")
    assert absolute(parse_address("unix:a.sock"), base).path == "/srv/a.sock"
    assert absolute(parse_address("unix:/a.sock"), base).path == "/a.sock"
    assert str(absolute(parse_address("uwsgi:unix:a.sock"), base)) == "uwsgi:unix:/srv/a.sock"
    assert absolute(parse_address("h:1"), base) == parse_address("h:1")
