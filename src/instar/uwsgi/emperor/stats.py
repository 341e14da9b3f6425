"""`emperor-stats`: one JSON object for whoever connects, with uWSGI's keys (core/emperor.c, emperor_send_stats)."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
from pathlib import Path
from typing import Any

from instar.errors import ConfigError
from instar.uwsgi.emperor.emperor import Emperor
from instar.uwsgi.emperor.vassal import Vassal

#: What uWSGI would be: readers look at it.
_VERSION = "2.0.31"
_PATIENCE = 5.0


class EmperorStats:
    """Owner of the socket."""

    def __init__(self, emperor: Emperor, address: str) -> None:
        self._emperor = emperor
        self._address = address
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        """Listen. Raises ConfigError."""
        host, colon, port = self._address.rpartition(":")
        try:
            if colon and port.isdecimal():
                self._server = await asyncio.start_server(self._answer, host or None, int(port))
            else:
                Path(self._address).unlink(missing_ok=True)
                self._server = await asyncio.start_unix_server(self._answer, self._address)
        except OSError as error:
            raise ConfigError(f"cannot have emperor-stats on {self._address}: {error.strerror or error}") from error

    async def stop(self) -> None:
        """Stop listening."""
        if self._server is not None:
            self._server.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, TimeoutError):
            writer.write(json.dumps(stats(self._emperor)).encode())
            await asyncio.wait_for(writer.drain(), _PATIENCE)
        writer.close()


def stats(emperor: Emperor) -> dict[str, Any]:
    """All keys of uWSGI, all of the same types; `state`, `note` and `kind` of each vassal are added."""
    now, clock = emperor.now, emperor.started + emperor.uptime
    vassals = list(emperor.vassals.values())
    return {
        "version": _VERSION,
        "pid": emperor.pid,
        "uid": os.getuid(),
        "gid": os.getgid(),
        "cwd": str(emperor.settings.directory),
        "emperor": [str(emperor.settings.directory)],
        "emperor_tyrant": 0,
        "throttle_level": 0,
        "vassals": [_vassal(vassal, emperor, now, clock) for vassal in vassals],
        "blacklist": [
            {
                "id": vassal.name,
                "throttle_level": int(vassal.throttle.remaining(now) * 1000),
                "attempt": vassal.throttle.attempts,
                "first_attempt": int(vassal.first_run),
                "last_attempt": int(vassal.last_run),
            }
            for vassal in vassals
            if vassal.throttle.attempts
        ],
    }


def _vassal(vassal: Vassal, emperor: Emperor, now: float, clock: float) -> dict[str, Any]:
    process = vassal.process if vassal.running else None
    began = int(process.began) if process else 0
    beat = int(clock - (now - process.heartbeat)) if process and process.heartbeat else 0
    return {
        "id": vassal.name,
        "pid": process.pid if process else -1,
        "born": vassal.file.found.stamp[0] // 1_000_000_000,
        "last_mod": vassal.file.found.stamp[0] // 1_000_000_000,
        "last_heartbeat": beat,
        "loyal": int(bool(process and process.loyal)),
        "ready": int(bool(process and process.ready)),
        "accepting": int(bool(process and process.accepting)),
        "last_loyal": began if process and process.loyal else 0,
        "last_ready": began if process and process.ready else 0,
        "last_accepting": began if process and process.accepting else 0,
        "first_run": int(vassal.first_run),
        "last_run": int(vassal.last_run),
        "cursed": int(bool(process and process.cursed)),
        "zerg": 0,
        "on_demand": "",
        "uid": os.getuid(),
        "gid": os.getgid(),
        "monitor": str(emperor.settings.directory),
        "respawns": vassal.restarts,
        "state": vassal.state,
        "note": vassal.note,
        "kind": vassal.file.kind,
    }
