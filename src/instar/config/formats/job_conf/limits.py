"""`limits` of a job configuration."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from instar.config.formats.job_conf.raw import Entry


class Limits:
    """Puts limits where they belong: into destinations, or into the table itself."""

    def __init__(self, destinations: dict[str, dict[str, Any]], warn: Callable[[str], None]) -> None:
        self.table: dict[str, Any] = {}
        self._destinations = destinations
        self._warn = warn

    def read(self, limits: Iterable[Entry]) -> None:
        """Take in all of them."""
        for entry in limits:
            kind, value = str(entry.get("type", "")), entry.get("value")
            match kind:
                case "registered_user_concurrent_jobs":
                    if number := self._number(kind, value):
                        self.table["user_limit"] = number
                case "destination_user_concurrent_jobs" | "environment_user_concurrent_jobs":
                    self._destination(entry, "user_limit", kind)
                case "destination_total_concurrent_jobs" | "environment_total_concurrent_jobs":
                    self._destination(entry, "limit", kind)
                case "walltime":
                    self._walltime(value)
                case _:
                    self._warn(f"limit {kind} has no meaning here and is left out")

    def _destination(self, entry: Entry, key: str, kind: str) -> None:
        number = self._number(kind, entry.get("value"))
        wanted, tag = str(entry.get("id") or ""), str(entry.get("tag") or "")
        found = [
            item for name, item in self._destinations.items() if name == wanted or (tag and tag in item.get("tags", ()))
        ]
        if tag and len(found) > 1:
            self._warn(f"limit {kind} for the tag {tag}: each destination of the tag gets the limit for itself")
        if not found:
            self._warn(f"limit {kind}: {wanted or tag} is no destination that can be used")
        for item in found:
            if number:
                item[key] = number

    def _walltime(self, value: Any) -> None:
        parts = str(value).split(":")
        if len(parts) != 3 or not all(part.isdecimal() for part in parts):
            self._warn(f'limit walltime must be "hours:minutes:seconds", not "{value}"')
            return
        hours, minutes, seconds = map(int, parts)
        for item in self._destinations.values():
            item["timeout"] = hours * 3600 + minutes * 60 + seconds

    def _number(self, kind: str, value: Any) -> int:
        text = str(value)
        if not text.isdecimal() or text == "0":
            self._warn(f'limit {kind} must be a number above zero, not "{text}"; it is left out')
            return 0
        return int(text)
