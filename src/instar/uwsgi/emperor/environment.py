"""The environment of a vassal."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from instar.uwsgi.emperor.link import VARIABLE
from instar.uwsgi.emperor.vassal_file import Kind, VassalFile

#: What concerns the Emperor alone: its sockets, its service manager, its own Emperor.
_OURS = (VARIABLE, "UWSGI_EMPEROR_FD_CONFIG", "UWSGI_RELOADS")
_PREFIXES = ("LISTEN_", "NOTIFY_", "WATCHDOG_")
#: `UWSGI_VASSAL_X` of the Emperor becomes `UWSGI_X` of a vassal.
_HANDED_ON = "UWSGI_VASSAL_"


def environment(inherited: Mapping[str, str], file: VassalFile, notify: str) -> dict[str, str]:
    """What a vassal inherits, and what it is told. `notify`: address of the Emperor's NOTIFY_SOCKET."""
    env = {}
    for name, value in inherited.items():
        if name in _OURS or name.startswith(_PREFIXES):
            continue
        env[f"UWSGI_{name.removeprefix(_HANDED_ON)}" if name.startswith(_HANDED_ON) else name] = value
    if state := inherited.get("INSTAR_STATE_DIR"):
        # One state directory can't serve them all.
        env["INSTAR_STATE_DIR"] = str(Path(state) / file.app)
    if file.kind is not Kind.UWSGI:  # uWSGI's Emperor doesn't give it either: its vassals speak by bytes
        env["NOTIFY_SOCKET"] = notify
    return env
