"""The readiness probe: a real request to the new workers, through the public address, before any client gets there."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import email.parser
import socket
import ssl
import struct
from urllib.parse import unquote

from instar.config import Config
from instar.config.address import Protocol

#: Larger response heads are refused.
_MAX_HEAD = 64 * 1024


class ProbeError(Exception):
    """The probe was not answered as configured; the message says how."""


@dataclasses.dataclass(frozen=True)
class Answer:
    """The head of a response, and who gave it (None: the engine has no middleware of ours)."""

    status: int
    generation: int | None
    worker: int | None


async def ask(sock: socket.socket, config: Config, nonce: str, protocol: Protocol = "http") -> Answer:
    """Send the configured request on a connected socket and read the head of the answer. Closes the socket.

    Raises ProbeError.
    """
    sock.setblocking(False)
    try:
        async with asyncio.timeout(config.health.timeout):
            return await _exchange(sock, config, nonce, protocol)
    except TimeoutError:
        raise ProbeError(f"no answer to the probe within {config.health.timeout:g} s") from None
    except (OSError, EOFError, asyncio.LimitOverrunError, ValueError) as error:
        raise ProbeError(f"the probe got no proper response: {error or type(error).__name__}") from error
    finally:
        sock.close()


async def _exchange(sock: socket.socket, config: Config, nonce: str, protocol: Protocol) -> Answer:
    tls = _tls(config) if protocol == "http" else None
    reader, writer = await asyncio.open_connection(
        sock=sock, ssl=tls, server_hostname=config.health.host if tls else None, limit=_MAX_HEAD
    )
    try:
        writer.write(_request(config, nonce) if protocol == "http" else _packet(config, nonce))
        await writer.drain()
        head = await reader.readuntil(b"\r\n\r\n")
        return _parse(head)
    finally:
        # The answer is complete for us; with SO_LINGER 0 the source port is free again at once.
        writer.transport.abort()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


def _tls(config: Config) -> ssl.SSLContext | None:
    if not config.web.tls_cert:
        return None
    # Our own certificate, on our own listener: there is nobody to authenticate.
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.set_alpn_protocols(["http/1.1"])
    return context


def _headers(config: Config, nonce: str) -> dict[str, str]:
    return {
        "Host": config.health.host,
        "User-Agent": "instar-probe",
        "Accept": "*/*",
        "X-Instar-Probe": nonce,
        **config.health.headers,
    }


def _request(config: Config, nonce: str) -> bytes:
    headers = {"Connection": "close", **_headers(config, nonce)}
    lines = [f"GET {config.health.path} HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items()), "", ""]
    return "\r\n".join(lines).encode("latin-1")


def _packet(config: Config, nonce: str) -> bytes:
    """The same for the uwsgi protocol, with the variables that nginx sends."""
    path, _, query = config.health.path.partition("?")
    variables = {
        "QUERY_STRING": query,
        "REQUEST_METHOD": "GET",
        "CONTENT_TYPE": "",
        "CONTENT_LENGTH": "",
        "REQUEST_URI": config.health.path,
        "PATH_INFO": unquote(path, "latin-1"),
        "SERVER_PROTOCOL": "HTTP/1.1",
        "REMOTE_ADDR": "127.0.0.1",
        "REMOTE_PORT": "0",
        "SERVER_NAME": config.health.host,
        "SERVER_PORT": "80",
    }
    for name, value in _headers(config, nonce).items():
        variables[f"HTTP_{name.upper().replace('-', '_')}"] = value
    block = b"".join(_sized(text) for item in variables.items() for text in item)
    return struct.pack("<BHB", 0, len(block), 0) + block


def _sized(text: str) -> bytes:
    data = text.encode("latin-1")
    return struct.pack("<H", len(data)) + data


def _parse(head: bytes) -> Answer:
    first, _, rest = head.decode("latin-1").partition("\r\n")
    version, status, *_ = first.split(" ", 2)
    if not version.startswith("HTTP/1."):
        raise ValueError(f"not an HTTP/1 response: {first[:60]!r}")
    headers = email.parser.HeaderParser().parsestr(rest)
    generation, worker = headers.get("x-instar-generation"), headers.get("x-instar-worker")
    return Answer(int(status), int(generation) if generation else None, int(worker) if worker else None)
