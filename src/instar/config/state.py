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


def durable_dir(name: str) -> Path:
    """Where an application keeps what has to outlive a reboot, which the folders in /run don't.

    `$INSTAR_STATE_DIR/app` if that is set, else `$STATE_DIRECTORY` of a systemd unit (systemd.exec(5)), else as root
    `/var/lib/instar/NAME`, else `~/.local/state/instar/NAME/app`.
    """
    if given := os.environ.get("INSTAR_STATE_DIR"):
        return current_folder() / given / "app"
    if unit := os.environ.get("STATE_DIRECTORY"):
        return Path(unit.partition(":")[0]) / name
    if os.geteuid() == 0:
        return Path("/var/lib/instar") / name
    return Path.home() / ".local/state/instar" / name / "app"
