"""Writes a file that a person asked for."""

from __future__ import annotations

import os
from pathlib import Path

from instar.errors import ConfigError


def write_new(path: Path, text: str, *, force: bool) -> None:
    """Write it; one that exists is only replaced with `force`. Raises ConfigError."""
    try:
        if force:
            # A full disk must not cost the old file.
            draft = path.with_name(f".{path.name}.{os.getpid()}")
            draft.write_text(text, encoding="utf-8")
            draft.replace(path)
        else:
            with path.open("x", encoding="utf-8") as file:
                file.write(text)
    except FileExistsError:
        raise ConfigError(f"cannot write {path}: it exists; keep it, or replace it with --force") from None
    except OSError as error:
        raise ConfigError(f"cannot write {path}: {(error.strerror or str(error)).lower()}") from error
