"""The client's address, scheme and host behind trusted reverse proxies.

`X-Forwarded-For`, `-Proto` and `-Host`, or `Forwarded` (RFC 7239) when there is no `X-Forwarded-For`. They are
believed only when the connection comes from a trusted proxy, and read from the right: each trusted hop vouches
for the one to its left, and the first address that is not trusted is the client.

A proxy must overwrite or extend these headers, and drop names with underscores, as nginx does by itself:
granian's WSGI side (alone among the engines) can't tell `X_Forwarded_For` from `X-Forwarded-For`.
"""

from __future__ import annotations

import dataclasses
import ipaddress
import re
from collections.abc import Iterable, Iterator

from instar.errors import ConfigError
from instar.runtime.drain_asgi import AsgiApp, Receive, Scope, Send
from instar.runtime.drain_wsgi import Environ, StartResponse, WsgiApp

_HOST = re.compile(r"[A-Za-z0-9._~-]+(:\d{1,5})?|\[[0-9A-Fa-f:.]+\](:\d{1,5})?")
_PAIR = re.compile(r'\s*([A-Za-z]+)\s*=\s*("(?:[^"\\]|\\.)*"|[^;,\s"]*)\s*')
_CACHE_LIMIT = 4096


@dataclasses.dataclass(frozen=True)
class Client:
    """What the proxies said; None: nothing (believable)."""

    address: str | None = None
    port: int = 0
    scheme: str | None = None
    host: str | None = None


@dataclasses.dataclass(frozen=True)
class _Hop:
    address: str | None
    port: int = 0
    scheme: str | None = None
    host: str | None = None


class TrustedProxies:
    """Networks (`10.0.0.0/8`, `::1`), `unix` (peers on UNIX sockets) and `*` (everybody)."""

    def __init__(self, names: Iterable[str]) -> None:
        self._all = self._unix = False
        self._networks: list[ipaddress.IPv4Network | ipaddress.IPv6Network] = []
        for name in names:
            if name == "*":
                self._all = True
            elif name == "unix":
                self._unix = True
            else:
                self._networks.append(_network(name))
        self._cache: dict[str, bool] = {}

    def trusts(self, peer: str) -> bool:
        """Whether a peer's headers are believed. A peer that is no IP address is on a UNIX socket."""
        known = self._cache.get(peer)
        if known is None:
            known = self._decide(peer)
            if len(self._cache) >= _CACHE_LIMIT:
                self._cache.clear()
            self._cache[peer] = known
        return known

    def _decide(self, peer: str) -> bool:
        if self._all:
            return True
        try:
            address = ipaddress.ip_address(peer)
        except ValueError:
            return self._unix
        mapped = getattr(address, "ipv4_mapped", None)
        return any((mapped or address) in network or address in network for network in self._networks)

    def client(self, forwarded_for: str, proto: str, host: str, forwarded: str) -> Client:
        """The client by the headers of a trusted peer (several header lines joined with commas)."""
        use_x = bool(forwarded_for) or not forwarded
        hops = _x_forwarded(forwarded_for, proto, host) if use_x else _rfc7239(forwarded)
        found = _Hop(None)
        for hop in reversed(hops):
            if hop.address is None:
                # Hidden or malformed: nothing to the left of it can be checked.
                return Client(found.address, found.port, hop.scheme or found.scheme, hop.host or found.host)
            found = _Hop(hop.address, hop.port, hop.scheme or found.scheme, hop.host or found.host)
            if not self.trusts(hop.address):
                break
        return Client(found.address, found.port, found.scheme, found.host)


def _network(name: str) -> ipaddress.IPv4Network | ipaddress.IPv6Network:
    try:
        return ipaddress.ip_network(name, strict=False)
    except ValueError as error:
        raise ConfigError(f"cannot use trusted proxy {name!r}: {error}; give a network, 'unix' or '*'") from None


def _x_forwarded(forwarded_for: str, proto: str, host: str) -> list[_Hop]:
    addresses = [_address(item) for item in _items(forwarded_for)]
    protos = [scheme if scheme in ("http", "https") else None for scheme in map(str.lower, _items(proto))]
    hosts = [name if _HOST.fullmatch(name) else None for name in _items(host)]
    if not addresses:
        return [_Hop(None, 0, protos[-1] if protos else None, hosts[-1] if hosts else None)]
    hops = []
    for place, (address, port) in enumerate(reversed(addresses)):
        # Most proxies set one value for the whole chain, some append one each: count from the right.
        scheme = protos[-1 - min(place, len(protos) - 1)] if protos else None
        name = hosts[-1 - min(place, len(hosts) - 1)] if hosts else None
        hops.append(_Hop(address, port, scheme, name))
    return hops[::-1]


def _rfc7239(header: str) -> list[_Hop]:
    hops = []
    for element in _elements(header):
        address, port = _address(element.get("for", ""))
        scheme = element.get("proto", "").lower()
        host = element.get("host", "")
        hops.append(
            _Hop(
                address,
                port,
                scheme if scheme in ("http", "https") else None,
                host if _HOST.fullmatch(host) else None,
            )
        )
    return hops


def _elements(header: str) -> Iterator[dict[str, str]]:
    """The comma-separated elements. A malformed one (and all to its left, unseen by us) counts as hidden."""
    element: dict[str, str] = {}
    position = 0
    while position < len(header):
        match = _PAIR.match(header, position)
        if match is None:
            yield {}
            comma = header.find(",", position)
            if comma < 0:
                return
            position, element = comma + 1, {}
            continue
        value = match[2]
        if value.startswith('"'):
            value = re.sub(r"\\(.)", r"\1", value[1:-1])
        element[match[1].lower()] = value
        position = match.end()
        separator = header[position : position + 1]
        if separator in ("", ","):
            yield element
            element = {}
        elif separator != ";":
            element = {}
            continue
        position += 1
    if element:
        yield element


def _items(header: str) -> list[str]:
    return [item.strip() for item in header.split(",")] if header.strip() else []


def _address(text: str) -> tuple[str | None, int]:
    """`1.2.3.4`, `1.2.3.4:80`, `::1`, `[::1]:80`."""
    text, port = text.strip(), 0
    if text.startswith("["):
        text, _, rest = text[1:].partition("]")
        port = _port(rest[1:])
    elif text.count(":") == 1:
        text, _, rest = text.partition(":")
        port = _port(rest)
    try:
        return str(ipaddress.ip_address(text)), port
    except ValueError:
        return None, 0


def _port(text: str) -> int:
    return int(text) if text.isascii() and text.isdigit() and len(text) <= 5 and int(text) < 65536 else 0


class ForwardedWsgi:
    """Sets REMOTE_ADDR, REMOTE_PORT, wsgi.url_scheme and HTTP_HOST."""

    def __init__(self, app: WsgiApp, trusted: TrustedProxies) -> None:
        self._app = app
        self._trusted = trusted

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        """One request."""
        if self._trusted.trusts(environ.get("REMOTE_ADDR") or ""):
            self._apply(environ)
        return self._app(environ, start_response)

    def _apply(self, environ: Environ) -> None:
        client = self._trusted.client(
            environ.get("HTTP_X_FORWARDED_FOR", ""),
            environ.get("HTTP_X_FORWARDED_PROTO", ""),
            environ.get("HTTP_X_FORWARDED_HOST", ""),
            environ.get("HTTP_FORWARDED", ""),
        )
        if client.address:
            environ["REMOTE_ADDR"] = client.address
            environ["REMOTE_PORT"] = str(client.port)
        if client.scheme:
            environ["wsgi.url_scheme"] = client.scheme
        if client.host:
            environ["HTTP_HOST"] = client.host


class ForwardedAsgi:
    """Sets `client`, `scheme` and the `host` header, for HTTP and WebSocket."""

    def __init__(self, app: AsgiApp, trusted: TrustedProxies) -> None:
        self._app = app
        self._trusted = trusted

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One connection scope."""
        if scope["type"] in ("http", "websocket"):
            peer = scope.get("client")
            if self._trusted.trusts(peer[0] if peer else ""):
                scope = self._applied(scope)
        await self._app(scope, receive, send)

    def _applied(self, scope: Scope) -> Scope:
        said: dict[bytes, str] = {}
        for name, value in scope["headers"]:
            if name in _HEADERS:
                text = value.decode("latin-1")
                said[name] = f"{said[name]},{text}" if name in said else text
        if not said:
            return scope
        client = self._trusted.client(*(said.get(name, "") for name in _HEADERS))
        scope = dict(scope)
        if client.address:
            scope["client"] = (client.address, client.port)
        if client.scheme:
            websocket = scope["type"] == "websocket"
            scope["scheme"] = {"http": "ws", "https": "wss"}[client.scheme] if websocket else client.scheme
        if client.host:
            others = [item for item in scope["headers"] if item[0] != b"host"]
            scope["headers"] = [(b"host", client.host.encode()), *others]
        return scope


#: In the order of `TrustedProxies.client`'s parameters.
_HEADERS = (b"x-forwarded-for", b"x-forwarded-proto", b"x-forwarded-host", b"forwarded")
