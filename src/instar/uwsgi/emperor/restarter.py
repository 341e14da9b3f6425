"""The restarter: the main file without what must exist only once, so that it can run beside the main instance.

It is derived anew for every dance, so it can't drift from the main file.
"""

from __future__ import annotations

from pathlib import Path

from instar.config.formats.uwsgi import Option, UwsgiConfig

#: Options that have done their work when the file has been read.
_READ = """
ini yaml yml json js xml xmlconfig include config inherit inject-before inject-after set set-placeholder set-ph
fallback-config declare-option resolve end endif end-if endfor end-for for foreach
"""
#: What would be there twice: names, addresses, files, background processes.
_ONCE = """
mule mules farm master-fifo pidfile pidfile2 safe-pidfile safe-pidfile2 daemonize daemonize2 vacuum stats stats-
server stats-http zerg-server zerg-pool emperor spooler spooler-external cron cron2 unique-cron legion-cron attach-
daemon attach-daemon2 attach-control-daemon smart-attach-daemon smart-attach-daemon2 touch-reload touch-chain-reload
touch-workers-reload touch-mules-reload fs-reload fs-brutal-reload py-autoreload py-auto-reload subscribe-to st
subscribe subscribe2 snmp carbon legion lord http https http-to http-router http-socket http11-socket https-socket
fastcgi-socket scgi-socket raw-socket puwsgi-socket upload-socket shared-socket undeferred-shared-socket map-socket
die-on-idle idle cheap heartbeat vassal-sos vassal-sos-backlog
"""
_NOT_FOR_IT = frozenset((_READ + _ONCE).split())
_SOCKETS = frozenset(("socket", "uwsgi-socket", "suwsgi-socket", "ssl-socket"))
#: Actions of hooks by which the recipe's instances end each other.
_CHOREOGRAPHY = ("writefifo:", "spinningfifo:")


def derive(options: UwsgiConfig, probe: Path, extra: dict[str, str] | None = None, *, attached: bool = True) -> str:
    """The restarter's configuration as an ini file. `probe`: a socket of its own that answers HTTP.

    `attached`: with the pool's sockets, so that clients reach it as soon as it accepts.
    """
    kept = [(option.key, option.value) for option in options if _belongs(option) and (attached or option.key != "zerg")]
    extra = {"master": "true", "http-socket": str(probe), **(extra or {})}
    if not options.has("need-app"):
        # Without, an application that can't be loaded serves errors instead of ending.
        extra["need-app"] = "true"
    lines = [f"{key} = {_escaped(value)}" for key, value in (*kept, *extra.items())]
    return "\n".join(["[uwsgi]", *lines, ""])


def _belongs(option: Option) -> bool:
    key = option.key
    if key in _NOT_FOR_IT or key.startswith(("if-", "for-", "hook-accepting")):
        return False
    if key in _SOCKETS:
        return option.value.endswith(":0")  # the dummy that a zergling needs
    return not (key.startswith("hook-") and option.value.lstrip("!").startswith(_CHOREOGRAPHY))


def _escaped(value: str) -> str:
    # All that `%` could stand for was replaced when the main file was read.
    return value.replace("%", "%%")
