"""Sets of HTTP status codes, written as `"200-399"` or `[200, "301-302"]`."""

from __future__ import annotations

import dataclasses
import re

_RANGE = re.compile(r"(\d{3})(?:\s*-\s*(\d{3}))?")
_WRONG = 'must be status codes such as 200, "200-399" or [200, "301-302"]'


@dataclasses.dataclass(frozen=True)
class StatusSet:
    """Status codes that count as healthy; `200 in status` asks."""

    #: First and last code of each range, both included.
    ranges: tuple[tuple[int, int], ...]

    def __contains__(self, code: object) -> bool:
        return isinstance(code, int) and any(first <= code <= last for first, last in self.ranges)

    def __str__(self) -> str:
        return ", ".join(str(first) if first == last else f"{first}-{last}" for first, last in self.ranges)


def parse_status(value: object) -> StatusSet:
    """The set that `value` describes. Raises ValueError that reads "must be …"."""
    if isinstance(value, StatusSet):
        return value
    items: list[object] = []
    for item in value if isinstance(value, list | tuple) else [value]:
        items.extend(item.split(",") if isinstance(item, str) else [item])
    if not items:
        raise ValueError(_WRONG)
    return StatusSet(tuple(_range(item) for item in items))


def _range(item: object) -> tuple[int, int]:
    match = _RANGE.fullmatch(str(item).strip()) if not isinstance(item, bool) else None
    if match is None:
        raise ValueError(_WRONG)
    first = int(match[1])
    last = int(match[2] or first)
    if not 100 <= first <= last <= 599:
        raise ValueError(f'must be status codes from 100 to 599, smaller first, not "{item}"')
    return first, last
