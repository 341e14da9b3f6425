"""What the extension was told: the instance's options, mules and farms."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from typing import Any

_INTEGER = re.compile(r"\s*([+-]?[0-9]+)")
#: `buffer-size` without the option (core/uwsgi.c).
DEFAULT_BUFFER_SIZE = 4096


@dataclasses.dataclass(frozen=True)
class MuleData:
    """One mule. `script` and `target` are both empty for one that only waits for messages."""

    number: int
    name: str
    pool: str
    script: str = ""
    target: str = ""
    farms: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class InsideData:
    """The instance. Options are in their order, repeated keys and all; a value of None is one that wasn't given."""

    options: tuple[tuple[str, str | None], ...]
    mules: tuple[MuleData, ...]
    #: Numbers of the mules of each farm.
    farms: Mapping[str, tuple[int, ...]]

    @classmethod
    def of(cls, raw: Mapping[str, Any]) -> InsideData:
        """Read what `instar.uwsgi.extension` wrote; unknown fields are ignored."""
        known = {field.name for field in dataclasses.fields(MuleData)}
        mules = [{key: value for key, value in item.items() if key in known} for item in raw.get("mules", ())]
        return cls(
            tuple((key, value) for key, value in raw.get("options", ())),
            tuple(MuleData(**{**item, "farms": tuple(item.get("farms", ()))}) for item in mules),
            {name: tuple(numbers) for name, numbers in raw.get("farms", {}).items()},
        )

    def all(self, *keys: str) -> list[str]:
        """Every value of an option, by all its names."""
        return [value or "" for key, value in self.options if key in keys]

    def last(self, *keys: str) -> str | None:
        """The value that counts; None when the option isn't there."""
        return next(reversed(self.all(*keys)), None)

    def flag(self, *keys: str, default: bool = False) -> bool:
        """Whether a switch is on."""
        value = self.last(*keys)
        return default if value is None else value.lower() not in ("false", "off", "no", "0")

    def number(self, *keys: str, default: int) -> int:
        """A number, read as C's atoi() does."""
        value = self.last(*keys)
        if value is None:
            return default
        match = _INTEGER.match(value)
        return int(match[1]) if match else 0

    def mule(self, name: str) -> MuleData | None:
        """The mule with this handler's name."""
        return next((mule for mule in self.mules if mule.name == name), None)

    @property
    def lazy_apps(self) -> bool:
        """Whether the file asks for an application that each worker loads for itself."""
        return self.flag("lazy-apps", "lazy")
