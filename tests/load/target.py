"""Where the load goes: a TCP or UNIX address, with or without TLS."""

from __future__ import annotations

import dataclasses
import ssl
from typing import Any, Self


@dataclasses.dataclass(frozen=True)
class Target:
    """One server address."""

    host: str = "127.0.0.1"
    port: int = 0
    #: Path of a UNIX socket; wins over host and port.
    unix: str = ""
    #: File with the certificate authority to trust; empty: no TLS.
    ca: str = ""

    @classmethod
    def from_json(cls, raw: dict[str, Any]) -> Self:
        """Read what `dataclasses.asdict` wrote."""
        return cls(**raw)

    @property
    def scheme(self) -> str:
        """`http` or `https`."""
        return "https" if self.ca else "http"

    @property
    def authority(self) -> str:
        """Value of the Host header."""
        return "localhost" if self.unix else f"{self.host}:{self.port}"

    def tls(self, protocol: str = "http/1.1") -> ssl.SSLContext | None:
        """A context that verifies the server and offers one protocol (ALPN); None without TLS."""
        if not self.ca:
            return None
        context = ssl.create_default_context(cafile=self.ca)
        context.set_alpn_protocols([protocol])
        return context
