"""What uWSGI's own module has and this one has not: refused by name, each with what to do instead."""

from __future__ import annotations

import re
from collections.abc import Callable

_REASONS: tuple[tuple[str, str], ...] = (
    (
        r"cache_\w+|cache_exists2?",
        "instar has no shared cache; use one such as Redis, memcached or diskcache",
    ),
    (r"queue_\w+", "instar has no shared queue; mule_msg and farm_msg send to mules"),
    (
        r"spool\w*|send_to_spooler|SPOOL_\w+|set_spooler_frequency",
        "instar has no spooler; give the work to a mule with mule_msg, or submit a job",
    ),
    (
        r"register_signal|signal|signal_\w+|add_timer|add_rb_timer|add_ms_timer|add_cron|add_file_monitor",
        "instar has no signals, timers, cron entries and file monitors; let a mule sleep between two turns",
    ),
    (r"register_rpc|rpc|rpc_list|call", "instar has no RPC; send a message to a mule, or use HTTP"),
    (r"websocket_\w+", "instar serves WebSockets to ASGI applications, not through this module"),
    (r"chunked_read\w*", "instar decodes chunked bodies; read wsgi.input"),
    (r"sharedarea_\w+", "instar has no shared memory areas; use multiprocessing.shared_memory"),
    (r"metric_\w+", "instar keeps metrics of its own; use a client library for yours"),
    (r"snmp_\w+", "instar has no SNMP"),
    (
        r"async_\w+|green_schedule|suspend|\w+_fd(_\w+)?|connect|is_connected|send|recv|close|disconnect",
        "instar has no asynchronous mode of uWSGI; serve an ASGI application",
    ),
    (r"sendfile|offload", "return wsgi.file_wrapper, or let the front server send the file"),
    (r"route|extract|parsefile|embedded_data", "instar has no internal routing"),
    (r"alarm|log_this_request|logsize|listen_queue", "instar keeps its own log and status: `instar status`"),
    (r"lord_scroll|scrolls", "instar has no legions"),
    (r"env|start_response|magic_table|cl|add_var|set_warning_message|get_option|spoolers", "instar doesn't provide it"),
)


class NotProvidedError(AttributeError):
    """A function or value of uWSGI that instar doesn't provide. An AttributeError, so that hasattr() says no."""


def reason(name: str) -> str | None:
    """Why a name of uWSGI's module isn't provided; None for one that uWSGI doesn't have either."""
    return next((text for pattern, text in _REASONS if re.fullmatch(pattern, name)), None)


def refuse(module: str) -> Callable[[str], object]:
    """The `__getattr__` of a module."""

    def missing(name: str) -> object:
        why = None if name.startswith("__") else reason(name)
        if why is None:
            raise AttributeError(f"module {module!r} has no attribute {name!r}")
        raise NotProvidedError(f"cannot use {module}.{name} under instar: {why}")

    return missing
