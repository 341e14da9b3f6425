"""Bind addresses: `host:port`, `[ipv6]:port`, `unix:/path`, and each of these behind `uwsgi:`."""

from __future__ import annotations

import dataclasses
import ipaddress
import re
from pathlib import Path
from typing import Literal

from instar.errors import ConfigError

#: Longest path that fits a socket address with its final zero byte (unix(7)).
MAX_UNIX_PATH = 107

#: What is spoken at an address.
Protocol = Literal["http", "uwsgi"]

_UWSGI = "uwsgi:"
_HOST_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?")


@dataclasses.dataclass(frozen=True)
class Address:
    """One bind address. `str()` gives it back in the form that the configuration uses."""

    kind: Literal["tcp", "unix"]
    host: str = ""
    port: int = 0
    path: str = ""
    protocol: Protocol = "http"

    def __str__(self) -> str:
        return _UWSGI + self.location if self.protocol == "uwsgi" else self.location

    @property
    def location(self) -> str:
        """Where it is, whatever is spoken there."""
        if self.kind == "unix":
            return f"unix:{self.path}"
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def wildcard(self) -> bool:
        """Whether it takes connections to every address of the host."""
        return self.host in ("0.0.0.0", "::")  # noqa: S104 (a comparison, nothing is bound)

    @property
    def local(self) -> bool:
        """Whether only this host can connect. A host name other than `localhost` counts as not local."""
        if self.kind == "unix" or self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

    def url(self, *, tls: bool = False) -> str:
        """What to type into a client: a wildcard becomes the loopback address."""
        if self.kind == "unix":
            return str(self)
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self.host, self.host)  # noqa: S104
        there = dataclasses.replace(self, host=host)
        return str(there) if self.protocol == "uwsgi" else f"{'https' if tls else 'http'}://{there}"

    def overlaps(self, other: Address) -> bool:
        """Whether the kernel refuses to bind both. `[::]` is dual stack, so it also covers IPv4."""
        if self.kind != other.kind:
            return False
        if self.kind == "unix":
            return self.path == other.path
        if self.port != other.port or self.port == 0:
            return False
        return self.host == other.host or _covers(self, other) or _covers(other, self)


def parse_address(text: str) -> Address:
    """The address that `text` names. Raises ConfigError that says how to write it instead."""
    if text.startswith(_UWSGI):
        return _parse_uwsgi(text)
    if text.startswith("unix:"):
        return _parse_unix(text)
    if "://" in text:
        raise _error(text, f'a bind address has no scheme; write "{text.split("://", 1)[1].rstrip("/")}"')
    if text.startswith("/"):
        raise _error(text, f'a UNIX socket is written "unix:{text}"')
    if text.isdigit():
        raise _error(text, f'it has no host; write "127.0.0.1:{text}" or "[::]:{text}"')
    return _parse_tcp(text)


def _parse_uwsgi(text: str) -> Address:
    rest = text.removeprefix("uwsgi://" if text.startswith("uwsgi://") else _UWSGI)
    if rest.isdigit():
        raise _error(text, f'it has no host; write "uwsgi:127.0.0.1:{rest}"')
    if rest.startswith(_UWSGI):
        raise _error(text, f'it names its protocol twice; write "{rest}"')
    return dataclasses.replace(parse_address(rest), protocol="uwsgi")


def _parse_unix(text: str) -> Address:
    path = text.removeprefix("unix://" if text.startswith("unix://") else "unix:")
    if not path or path.endswith("/"):
        raise _error(text, 'it names no file; write "unix:/run/app.sock"')
    if path.startswith("@") or "\0" in path:
        raise _error(text, "abstract sockets can't be switched by renaming; use a path")
    return Address(kind="unix", path=path)


def _parse_tcp(text: str) -> Address:
    host, colon, port_text = text.rpartition(":")
    if not colon:
        raise _error(text, f'it has no port; write "{text}:8000"')
    if not port_text.isascii() or not port_text.isdigit() or int(port_text) > 65535:
        raise _error(text, f'the port must be a number from 0 to 65535, not "{port_text}"')
    port = int(port_text)
    if not host:
        raise _error(text, f'it has no host; write "0.0.0.0:{port}" or, for IPv6 and IPv4, "[::]:{port}"')
    if host.startswith("[") and host.endswith("]"):
        return Address(kind="tcp", host=_ipv6(text, host[1:-1]), port=port)
    if ":" in host:
        raise _error(text, f'an IPv6 address stands in brackets; write "[{host}]:{port}"')
    return Address(kind="tcp", host=_host(text, host), port=port)


def _ipv6(text: str, host: str) -> str:
    try:
        return str(ipaddress.IPv6Address(host))
    except ValueError as error:
        raise _error(text, f'"{host}" is no IPv6 address') from error


def _host(text: str, host: str) -> str:
    if host == "*":
        port = text.rpartition(":")[2]
        raise _error(text, f'write "0.0.0.0:{port}" or, for IPv6 and IPv4, "[::]:{port}"')
    if re.fullmatch(r"[0-9.]+", host):
        try:
            return str(ipaddress.IPv4Address(host))
        except ValueError as error:
            raise _error(text, f'"{host}" is no IPv4 address') from error
    if not _HOST_NAME.fullmatch(host):
        raise _error(text, f'"{host}" is no host name')
    return host


def _covers(wide: Address, narrow: Address) -> bool:
    if not wide.wildcard:
        return False
    return wide.host == "::" or ":" not in narrow.host


def absolute(address: Address, base: Path) -> Address:
    """The same address with its UNIX path made absolute."""
    if address.kind != "unix":
        return address
    return dataclasses.replace(address, path=str(base / address.path))


def _error(text: str, why: str) -> ConfigError:
    return ConfigError(f'cannot use the address "{text}": {why}')
