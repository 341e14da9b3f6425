"""Who the client is, behind proxies and attackers."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from instar.errors import ConfigError
from instar.runtime.forwarded import ForwardedAsgi, ForwardedWsgi, TrustedProxies


def client(trusted, forwarded_for="", proto="", host="", forwarded=""):
    found = TrustedProxies(trusted).client(forwarded_for, proto, host, forwarded)
    return found.address, found.scheme, found.host


LOCAL = ["127.0.0.0/8", "10.0.0.0/8", "::1"]


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ("203.0.113.9", "203.0.113.9"),
        ("6.6.6.6, 203.0.113.9", "203.0.113.9"),
        ("6.6.6.6, 203.0.113.9, 10.1.2.3", "203.0.113.9"),
        ("10.9.9.9, 10.1.2.3", "10.9.9.9"),
        ("203.0.113.9:4711", "203.0.113.9"),
        ("[2001:db8::1]:4711, 10.0.0.1", "2001:db8::1"),
        ("2001:db8::1", "2001:db8::1"),
        ("6.6.6.6, unknown, 10.1.2.3", "10.1.2.3"),
        ("6.6.6.6, <script>", None),
        ("6.6.6.6,", None),
        ("", None),
    ],
)
def test_right_most_untrusted_address(header, expected):
    assert client(LOCAL, header)[0] == expected


def test_everybody_trusted_means_left_most():
    assert client(["*"], "1.1.1.1, 2.2.2.2")[0] == "1.1.1.1"


def test_scheme_and_host_count_from_the_right():
    assert client(LOCAL, "6.6.6.6, 1.1.1.1, 10.0.0.1", "https", "a.example")[1:] == ("https", "a.example")
    chain = client(LOCAL, "6.6.6.6, 1.1.1.1, 10.0.0.1", "ftp, https, http", "evil, a.example, inner")
    assert chain == ("1.1.1.1", "https", "a.example")
    assert client(LOCAL, "", "https", "a.example:8443")[1:] == ("https", "a.example:8443")
    assert client(LOCAL, "1.1.1.1", "gopher", "a b")[1:] == (None, None)


def test_rfc7239():
    header = 'for=6.6.6.6;proto=http, For="[2001:db8::7]:80";proto=https;host="a.example", for=10.0.0.1;by=x'
    assert client(LOCAL, forwarded=header) == ("2001:db8::7", "https", "a.example")
    assert client(LOCAL, forwarded="for=_hidden;proto=https") == (None, "https", None)
    assert client(LOCAL, forwarded='for=6.6.6.6, for="1.2.3.4\\"')[0] is None
    assert client(LOCAL, forwarded="for=1.2.3.4;")[0] == "1.2.3.4"
    assert client(LOCAL, "1.1.1.1", forwarded="for=6.6.6.6")[0] == "1.1.1.1"


@given(st.text(alphabet='for=;,"\\ 1.[]:x', max_size=60), st.text(max_size=40))
def test_no_input_breaks_it(forwarded, other):
    trusted = TrustedProxies(LOCAL)
    trusted.client("", "", "", forwarded)
    trusted.client(other, other, other, forwarded)
    trusted.trusts(other)


def test_trust():
    trusted = TrustedProxies(["unix", "10.0.0.0/8", "192.168.0.7/16"])
    assert trusted.trusts("10.1.1.1") and trusted.trusts("::ffff:10.1.1.1") and trusted.trusts("192.168.3.4")
    assert trusted.trusts("") and trusted.trusts("unix:")
    assert not trusted.trusts("11.0.0.1") and not trusted.trusts("::1")
    assert not TrustedProxies(["10.0.0.0/8"]).trusts("")
    with pytest.raises(ConfigError, match="cannot use trusted proxy"):
        TrustedProxies(["example.org"])


def wsgi(peer, **headers):
    environ = {"REMOTE_ADDR": peer, "wsgi.url_scheme": "http", "HTTP_HOST": "inner", **headers}
    ForwardedWsgi(lambda env, start: [], TrustedProxies(LOCAL))(environ, None)
    return environ["REMOTE_ADDR"], environ["wsgi.url_scheme"], environ["HTTP_HOST"]


HEADERS = {
    "HTTP_X_FORWARDED_FOR": "1.1.1.1",
    "HTTP_X_FORWARDED_PROTO": "https",
    "HTTP_X_FORWARDED_HOST": "a.example",
}


def test_wsgi():
    assert wsgi("127.0.0.1", **HEADERS) == ("1.1.1.1", "https", "a.example")
    assert wsgi("6.6.6.6", **HEADERS) == ("6.6.6.6", "http", "inner")
    assert wsgi("127.0.0.1") == ("127.0.0.1", "http", "inner")


async def asgi(kind, peer, headers):
    seen = []

    async def app(scope, receive, send):
        seen.append(scope)

    scheme = "ws" if kind == "websocket" else "http"
    scope = {"type": kind, "client": peer, "scheme": scheme, "headers": [(b"host", b"inner"), *headers]}
    await ForwardedAsgi(app, TrustedProxies([*LOCAL, "unix"]))(scope, None, None)
    found = seen[0]
    return found["client"], found["scheme"], [v for k, v in found["headers"] if k == b"host"]


@pytest.mark.parametrize(("kind", "scheme"), [("http", "https"), ("websocket", "wss")])
async def test_asgi(kind, scheme):
    headers = [
        (b"x-forwarded-for", b"6.6.6.6"),
        (b"x-forwarded-for", b"1.1.1.1"),
        (b"x-forwarded-proto", b"https"),
        (b"x-forwarded-host", b"a.example"),
    ]
    assert await asgi(kind, ("127.0.0.1", 5), headers) == (("1.1.1.1", 0), scheme, [b"a.example"])
    assert await asgi(kind, None, headers) == (("1.1.1.1", 0), scheme, [b"a.example"])
    untouched = await asgi(kind, ("6.6.6.6", 5), headers)
    assert untouched[0] == ("6.6.6.6", 5) and untouched[2] == [b"inner"]
