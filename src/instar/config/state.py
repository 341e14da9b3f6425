"""Where the state directory of an application is. Every verb finds the supervisor by it."""

from __future__ import annotations

import os
from pathlib import Path

from instar.config.here import current_folder


def state_dir(name: str) -> Path:
    """`$INSTAR_STATE_DIR`, else a folder by the application's name (absolute, not created).

    As root `/run/instar/NAME`, else `$XDG_RUNTIME_DIR/instar/NAME` (XDG base directory specification), else
    `~/.local/state/instar/NAME`.
    """
    if given := os.environ.get("INSTAR_STATE_DIR"):
        return current_folder() / given
    if os.geteuid() == 0:
        return Path("/run/instar") / name
    if runtime := os.environ.get("XDG_RUNTIME_DIR"):
        return Path(runtime) / "instar" / name
    return Path.home() / ".local/state/instar" / name
