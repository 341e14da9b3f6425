"""The readiness probe: a request that tells which process answered, and that no client can forge."""

from __future__ import annotations

import dataclasses
import hmac

#: Request header that carries the generation's secret.
HEADER = "x-instar-probe"
HEADER_BYTES = HEADER.encode()
HEADER_WSGI = "HTTP_X_INSTAR_PROBE"


@dataclasses.dataclass(frozen=True)
class Probe:
    """What a probe must carry, and what it is told."""

    nonce: str
    generation: int
    worker: int

    def accepts(self, value: str) -> bool:
        """Whether the header's value is this generation's secret (compared in constant time)."""
        expected = self.nonce.encode()
        return bool(expected) and hmac.compare_digest(value.encode("latin-1", "replace"), expected)

    def headers(self) -> list[tuple[str, str]]:
        """Response headers of a probe."""
        return [("x-instar-generation", str(self.generation)), ("x-instar-worker", str(self.worker))]

    def raw_headers(self) -> list[tuple[bytes, bytes]]:
        """The same for ASGI."""
        return [(name.encode(), value.encode()) for name, value in self.headers()]
