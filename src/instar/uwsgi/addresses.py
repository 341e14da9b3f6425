"""Addresses as uWSGI writes them, in instar's form."""

from __future__ import annotations

from pathlib import Path

from instar.config.address import parse_address
from instar.errors import ConfigError


def bind_of(text: str, base: Path) -> str:
    """`127.0.0.1:80`, `:80`, `[::]:80` or a path (from `base`) as `[web] bind` has it. Raises ConfigError."""
    if text.startswith(("@", "\0")):
        raise ConfigError(
            f'cannot listen on "{text}": abstract sockets have no file that could be switched; use a path'
        )
    if text.startswith("fd://"):
        raise ConfigError(
            f'cannot listen on "{text}": name the address; a socket that systemd hands over for it is used'
        )
    if text.startswith("="):
        raise ConfigError(f'cannot listen on "{text}": shared sockets are not supported; name the address here')
    if ":" not in text:
        if not text:
            raise ConfigError('cannot listen on "": it names no address')
        return f"unix:{base / text}"
    host, _, port = text.rpartition(":")
    # uWSGI looks for an interface that the star fits; all of them is what people mean.
    return str(parse_address(f"{host if host not in ('', '*') else '0.0.0.0'}:{port}"))  # noqa: S104


def is_dummy(text: str) -> bool:
    """Whether the kernel would pick the port: a zergling's own socket that nobody could ever find."""
    host, colon, port = text.rpartition(":")
    return bool(colon) and port == "0" and not host.startswith("/")
