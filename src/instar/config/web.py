"""`[web]`: the listeners, the workers and the server in them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, PlainSerializer, ValidationInfo, WithJsonSchema

from instar.config.address import Address, parse_address
from instar.config.table import Table, base_folder, setting
from instar.config.types import (
    Argv,
    Binds,
    Count,
    Duration,
    OptionalPath,
    Period,
    Proxies,
    Size,
    Switch,
    Text,
    quoted,
)
from instar.config.uwsgi import Uwsgi


def _static(value: object, info: ValidationInfo) -> dict[str, Path]:
    if not isinstance(value, dict):
        raise ValueError('must be a table such as {"/static" = "public/static"}')
    result: dict[str, Path] = {}
    for prefix, folder in value.items():
        if not str(prefix).startswith("/"):
            raise ValueError(f'has the URL prefix "{prefix}", which must begin with "/"')
        if not isinstance(folder, str | Path) or not str(folder):
            raise ValueError(f'needs a folder for "{prefix}"')
        result[str(prefix).rstrip("/") or "/"] = base_folder(info) / Path(folder).expanduser()
    return result


StaticMaps = Annotated[
    dict[str, Path],
    BeforeValidator(_static),
    PlainSerializer(lambda maps: {prefix: str(folder) for prefix, folder in maps.items()}, return_type=dict[str, str]),
    WithJsonSchema({"type": "object", "additionalProperties": {"type": "string"}}),
]


def _http(value: object) -> object:
    return str(value) if value in (1, 2) and not isinstance(value, bool) else value


def _socket_mode(text: str) -> str:
    if not re.fullmatch(r"0?[0-7]{3}", text):
        raise ValueError(f'must be a mode such as "660", not {quoted(text)}')
    return text


def _socket_owner(text: str) -> str:
    if text and not re.fullmatch(r"[^:\s]*(:[^:\s]+)?", text):
        raise ValueError(f'must be "user", "user:group" or ":group", not {quoted(text)}')
    return text


def _root_path(text: str) -> str:
    if text and not text.startswith("/"):
        raise ValueError('must be empty or begin with "/"')
    return text.rstrip("/")


class Web(Table):
    """Where clients connect, and what answers them."""

    bind: Binds = setting(
        ("127.0.0.1:8000",),
        "Addresses to listen on: `host:port`, `[ipv6]:port` (`[::]` takes IPv4 too), `unix:/path`; with `uwsgi:` in "
        "front, for proxies that speak the uwsgi protocol (`uwsgi_pass` of nginx; WSGI only). "
        "Addresses are added and removed by a restart.",
        unit="list of addresses",
        example=["0.0.0.0:8000", "unix:/run/mysite/web.sock"],
    )
    socket_mode: Annotated[Text, AfterValidator(_socket_mode)] = setting(
        "660", "Permissions of UNIX sockets, in octal: who may write may connect.", unit="mode", example="666"
    )
    socket_owner: Annotated[Text, AfterValidator(_socket_owner)] = setting(
        "",
        "User and group that UNIX sockets belong to; names or numbers. Empty: those of instar. Only root can give "
        "them to another user.",
        unit="user:group",
        example="www-data:www-data",
    )
    workers: Count = setting(0, "Worker processes. 0: one for each CPU that we may use.", unit="count")
    threads: Count = setting(
        0, "Threads of each worker that run the application. 0: 4 for WSGI, 1 for ASGI.", unit="count"
    )
    engine: Literal["granian", "uvicorn", "gunicorn", "uwsgi", "command"] = setting(
        "granian",
        "Server inside the workers; it comes from the application's environment. `uwsgi` is the real uWSGI, for use "
        "behind a proxy; `command` runs any program that takes a listening socket.",
        unit="choice",
    )
    command: Argv = setting(
        (),
        "Program and arguments of the `command` engine. `{fd}` is replaced by the number of the first listening "
        "socket, `{fds}` by those of all addresses; a command with neither is told by LISTEN_FDS (sd_listen_fds(3)). "
        "`{python}` is the application's interpreter.",
        unit="list of words",
        example=["hypercorn", "--workers", "0", "--bind", "fd://{fd}", "mysite:app"],
    )
    worker_class: Text = setting("", "Worker class of gunicorn. Empty: `gthread`, or `asgi` for ASGI.", unit="name")
    static: StaticMaps = setting(
        {},
        "Folders whose files are served below a URL prefix without asking the application.",
        unit="table of paths",
        example={"/static": "public/static"},
    )
    keep_alive: Duration = setting(30.0, "Idle time after which a kept-alive connection is closed.", unit="seconds")
    backlog: Annotated[Count, AfterValidator(lambda count: max(count, 1))] = setting(
        2048,
        "Connections that may wait in each listening socket; the kernel caps it at net.core.somaxconn.",
        unit="count",
    )
    tls_cert: OptionalPath = setting(
        None,
        "Certificate chain (PEM). With it every TCP bind for HTTP speaks TLS.",
        unit="path",
        example="/etc/ssl/mysite.pem",
    )
    tls_key: OptionalPath = setting(None, "Private key of the certificate (PEM).", unit="path")
    tls_key_password_env: Text = setting(
        "", "Name of the environment variable that holds the password of the private key.", unit="name"
    )
    http: Annotated[Literal["auto", "1", "2"], BeforeValidator(_http)] = setting(
        "auto", "HTTP versions to speak. HTTP/2 needs the granian engine.", unit="choice"
    )
    trusted_proxies: Proxies = setting(
        (),
        "Peers whose `X-Forwarded-For`, `-Proto`, `-Host` and `Forwarded` headers are believed: addresses, networks, "
        "`unix` for peers on UNIX sockets, `*` for everybody. They have to set or remove all of these.",
        unit="list of networks",
        example=["127.0.0.1", "10.0.0.0/8"],
    )
    root_path: Annotated[Text, AfterValidator(_root_path)] = setting(
        "",
        "URL path that the application is mounted at behind a proxy (SCRIPT_NAME).",
        unit="URL path",
        example="/mysite",
    )
    max_requests: Count = setting(0, "Recycle a worker, without loss, after so many requests. 0: never.", unit="count")
    max_requests_jitter: Count = setting(
        0, "Up to so many more requests, at random, so that workers are not recycled together.", unit="count"
    )
    max_memory: Size = setting(
        0,
        "Recycle a worker, without loss, when its private memory exceeds this. 0: never.",
        unit="bytes",
        example="300M",
    )
    request_timeout: Duration = setting(
        0.0,
        "Replace a worker when a request runs longer than this (not WebSockets and event streams). 0: no limit.",
        unit="seconds",
    )
    heartbeat_timeout: Period = setting(
        30.0, "Replace a worker whose process, or event loop, gave no sign of life for so long.", unit="seconds"
    )
    access_log: Switch = setting(False, "Log a line for each request.", unit="switch")
    steering: Literal["auto", "steered", "shared"] = setting(
        "auto",
        "How new connections get from one generation to the next: `steered` lets the kernel pick the generation, "
        "`shared` lets both accept from one socket. `auto`: `steered` where the kernel can.",
        unit="choice",
    )
    sockets: Literal["auto", "worker", "generation"] = setting(
        "auto",
        "`worker`: each worker has a listening socket of its own and the kernel spreads connections evenly. "
        "`generation`: its workers accept from one, so that a busy one leaves connections to the others. "
        "`auto`: `generation` for uvicorn, for gunicorn's class `sync` and for `uwsgi:` binds, which accept only when "
        "they have time; `worker` for the others.",
        unit="choice",
    )
    max_workers: Count = setting(
        0,
        "Most workers that `workers` can be raised to by a restart while each still has a socket of its own. "
        "0: the larger of `workers` and the number of CPUs.",
        unit="count",
    )

    uwsgi: Uwsgi = setting(Uwsgi(), "The server behind `uwsgi:` binds.", unit="table")

    @property
    def servers(self) -> str:
        """What serves the binds, in words: the engine, and our server of the uwsgi protocol where it is used."""
        spoken = {address.protocol for address in self.addresses}
        if "uwsgi" not in spoken or self.engine in ("uwsgi", "command"):
            return self.engine
        return f"{self.engine} and uwsgi protocol" if "http" in spoken else "uwsgi protocol"

    @property
    def addresses(self) -> tuple[Address, ...]:
        """The parsed binds."""
        return tuple(parse_address(bind) for bind in self.bind)
