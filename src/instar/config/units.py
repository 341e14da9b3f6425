"""Values with a unit: durations, sizes, shares. Each `parse_*` raises ValueError that reads "must be …"."""

from __future__ import annotations

import math
import re

_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_DURATION = re.compile(r"(?:(\d+(?:\.\d+)?)\s*(ms|s|m|h|d)\s*)+", re.IGNORECASE)
_DURATION_PART = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|s|m|h|d)", re.IGNORECASE)
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([KMGT]?)(?:i?B)?", re.IGNORECASE)
_NUMBER = re.compile(r"\d+(\.\d+)?")
_BYTES = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}


def is_number(value: object) -> bool:
    """A finite int or float (TOML also has `inf` and `nan`; a bool is none)."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def parse_duration(value: object) -> float:
    """Seconds, from a number of seconds or a text such as `"90s"`, `"10m"`, `"1h30m"`, `"250ms"`."""
    if is_number(value):
        return float(value)  # type: ignore[arg-type]
    if isinstance(value, str):
        text = value.strip()
        if _NUMBER.fullmatch(text):
            return float(text)
        if _DURATION.fullmatch(text):
            return sum(float(count) * _SECONDS[unit.lower()] for count, unit in _DURATION_PART.findall(text))
    raise ValueError('must be a number of seconds, or a text such as "30s", "10m" or "1h30m"')


def parse_size(value: object) -> int:
    """Bytes, from a number of bytes or a text such as `"300M"` (K, M, G, T: powers of 1024). Empty: 0."""
    if is_number(value) and value == int(value):  # type: ignore[call-overload]
        return int(value)  # type: ignore[call-overload, no-any-return]
    if isinstance(value, str):
        text = value.strip()
        if not text:
            return 0
        if match := _SIZE.fullmatch(text):
            return int(float(match[1]) * _BYTES[match[2].upper()])
    raise ValueError('must be a number of bytes, or a text such as "512K", "300M" or "2G"')


def parse_share(value: object) -> float:
    """A share from 0 up to 1, from a number or a text such as `"10%"`."""
    if is_number(value):
        return float(value)  # type: ignore[arg-type]
    if isinstance(value, str) and value.strip().endswith("%") and _NUMBER.fullmatch(value.strip()[:-1].strip()):
        return float(value.strip()[:-1]) / 100
    raise ValueError('must be a share such as 0.1 or "10%"')


def format_duration(seconds: float) -> str:
    """Short text of a duration: `250 ms`, `30 s`, `10 m`, `1 h 30 m`."""
    if 0 < seconds < 1:
        return f"{seconds * 1000:g} ms"
    parts = []
    for unit in ("d", "h", "m"):
        count, seconds = divmod(seconds, _SECONDS[unit])
        if count:
            parts.append(f"{count:g} {unit}")
    if seconds or not parts:
        parts.append(f"{seconds:g} s")
    return " ".join(parts)


def format_size(count: int) -> str:
    """Short text of a size: `300M`."""
    for unit in ("T", "G", "M", "K"):
        if count >= _BYTES[unit] and count % _BYTES[unit] == 0:
            return f"{count // _BYTES[unit]}{unit}"
    return str(count)
