"""Checks that the application's environment has a server that we know how to run."""

from __future__ import annotations

import importlib.metadata
import re

from instar.errors import InstarError


class EngineMissingError(InstarError):
    """The application's environment lacks the server, or has a version that we don't know."""


def require(package: str, at_least: tuple[int, ...], below: tuple[int, ...]) -> tuple[int, ...]:
    """The installed version of a package. Raises EngineMissingError unless it lies in the range."""
    wanted = f"{package}>={_text(at_least)},<{_text(below)}"
    try:
        text = importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        raise EngineMissingError(
            f"cannot run {package}: the application's environment does not have it; pip install '{wanted}'"
        ) from None
    version = tuple(int(part) for part in re.findall(r"\d+", text)[:3])
    if not at_least <= version < below:
        raise EngineMissingError(
            f"cannot run {package} {text}: this release of instar knows {wanted}; pip install '{wanted}'"
        )
    return version


def _text(version: tuple[int, ...]) -> str:
    return ".".join(map(str, version))
