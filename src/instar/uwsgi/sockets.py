"""Which addresses the instance serves, with which protocol."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from instar.config.formats.uwsgi import Option, UwsgiConfig
from instar.errors import ConfigError
from instar.uwsgi.addresses import bind_of, is_dummy
from instar.uwsgi.model import Router, ZergPool

#: Sockets by the protocol that is spoken on them; "" is that of `protocol`.
OWN = {"socket": "", "uwsgi-socket": "uwsgi", "http-socket": "http", "http11-socket": "http"}
TLS = ("https", "https2", "https-socket")
ROUTER = ("http", "httprouter")
#: Nodes behind the router.
NODES = ("http-to", "http-socket-to")
PROTOCOL = ("protocol", "socket-protocol")
ZERG_POOL = ("zerg-pool", "zergpool")


@dataclasses.dataclass
class Sockets:
    """What the options say of sockets."""

    binds: list[str] = dataclasses.field(default_factory=list)
    routers: list[Router] = dataclasses.field(default_factory=list)
    pools: list[ZergPool] = dataclasses.field(default_factory=list)
    tls_cert: Path | None = None
    tls_key: Path | None = None
    warnings: list[str] = dataclasses.field(default_factory=list)


def sockets_of(config: UwsgiConfig, base: Path) -> Sockets:
    """All sockets; relative paths start from `base`. Raises ConfigError."""
    found = Sockets()
    for option in config:
        try:
            _add(found, option, config, base)
        except ConfigError as error:
            raise ConfigError(f"cannot read {option.place}: {option.key}: {error}") from None
    if found.tls_cert and any(not bind.startswith(("unix:", "uwsgi:")) for bind in found.binds):
        _tls_for_all(found, config)
    found.binds = list(dict.fromkeys(found.binds))
    return found


def protocol_of(config: UwsgiConfig) -> str:
    """What is spoken on sockets that don't say it. Raises ConfigError."""
    name = config.text(*PROTOCOL) or "uwsgi"
    if name in ("http", "http11"):
        return "http"
    if name != "uwsgi":
        raise ConfigError(
            f"cannot use protocol = {name}: instar speaks uwsgi and http; let the proxy speak one of them"
        )
    return "uwsgi"


def _add(found: Sockets, option: Option, config: UwsgiConfig, base: Path) -> None:
    key, value = option.key, option.value
    if key in OWN:
        if config.has("zerg") and is_dummy(value):
            return
        protocol = OWN[key] or protocol_of(config)
        bind = bind_of(value, base)
        found.binds.append(f"uwsgi:{bind}" if protocol == "uwsgi" else bind)
    elif key in ROUTER:
        _add_router(found, value, config, base)
    elif key in ZERG_POOL:
        path, _, addresses = value.partition(":")
        binds = tuple(bind_of(item, base) for item in addresses.split(",") if item)
        if not path or not binds:
            raise ConfigError(f"it needs the form SOCKET:ADDRESS,ADDRESS, not {value!r}")
        found.pools.append(ZergPool(base / path, binds))
    elif key in TLS:
        _add_tls(found, value, base)


def _add_router(found: Sockets, value: str, config: UwsgiConfig, base: Path) -> None:
    bind = bind_of(value, base)
    nodes = tuple(bind_of(node, base) for text in config.texts(*NODES) for node in text.split(",") if node)
    if nodes:
        found.routers.append(Router(bind, nodes, float(max(1, config.number("http-timeout", default=60)))))
    else:
        # uWSGI's router in front of its own workers: here they speak HTTP themselves.
        found.binds.append(bind)


def _add_tls(found: Sockets, value: str, base: Path) -> None:
    address, *files = value.split(",")
    if len(files) < 2:
        raise ConfigError(f"it needs the form ADDRESS,CERTIFICATE,KEY, not {value}")
    found.binds.append(bind_of(address, base))
    found.tls_cert, found.tls_key = base / files[0], base / files[1]


def _tls_for_all(found: Sockets, config: UwsgiConfig) -> None:
    plain = config.texts(*ROUTER, *(key for key, protocol in OWN.items() if protocol == "http"))
    if plain:
        text = "have TLS as well: instar speaks it on every TCP address of an application, or on none"
        found.warnings.append(f"the addresses without TLS ({', '.join(plain)}) {text}")
