"""`[web.uwsgi]`: the server behind `uwsgi:` binds."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator

from instar.config.table import Table, setting
from instar.config.types import Period, Proxies, Size

#: A packet says its size in 16 bits (the uwsgi protocol, https://uwsgi-docs.readthedocs.io/en/latest/Protocol.html).
LARGEST_PACKET = 65535


class Uwsgi(Table):
    """What `uwsgi:` addresses (see `bind`) let in."""

    allow: Proxies = setting(
        (),
        "Peers that may connect, besides this host and UNIX sockets: addresses, networks, `*` for everybody. They are "
        "believed in all they say of a client, its address included. An address that other hosts can reach needs this.",
        unit="list of networks",
        example=["10.0.0.0/8"],
    )
    buffer_size: Annotated[Size, AfterValidator(lambda size: min(size, LARGEST_PACKET))] = setting(
        LARGEST_PACKET,
        "Largest request head (all variables together); a larger one is answered with 431. The protocol ends at 65535.",
        unit="bytes",
        example="32K",
    )
    socket_timeout: Period = setting(
        4.0,
        "Time that a peer has for the whole head of a request, and for each following piece in either direction.",
        unit="seconds",
    )
