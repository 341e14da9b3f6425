"""What a master can be told: the letters of the master FIFO, and uWSGI's functions for `unix_signal`."""

from __future__ import annotations

import enum

from instar.config.nearest import did_you_mean
from instar.errors import ConfigError


class Order(enum.Enum):
    """One command; the value is its letter."""

    STOP = "q"
    STOP_NOW = "Q"
    RELOAD = "r"
    RELOAD_NOW = "R"
    RELOAD_WEB = "c"
    RECYCLE = "w"
    RECYCLE_NOW = "W"
    PAUSE = "p"
    STATS = "s"
    LOG_REOPEN = "l"
    LOG_ROTATE = "L"
    PIDFILES = "P"
    SOS = "B"
    #: Known to uWSGI, without a counterpart here.
    CHEAPER = "-"
    DEARER = "+"
    GO_CHEAP = "C"
    RESCAN = "E"
    REFORK = "f"
    SUBSCRIPTIONS = "S"


#: Why an order does nothing, and what does.
WITHOUT_EFFECT = {
    Order.CHEAPER: "the number of workers does not change by itself; set processes and restart",
    Order.DEARER: "the number of workers does not change by itself; set processes and restart",
    Order.GO_CHEAP: "workers are not ended for want of requests",
    Order.RESCAN: "this is no Emperor",
    Order.REFORK: "a restart needs no second master; write r",
    Order.SUBSCRIPTIONS: "there are no subscriptions",
}

#: By the name of uWSGI's function (core/uwsgi.c, core/fifo.c, core/master_utils.c).
FUNCTIONS = {
    "gracefully_kill_them_all": Order.STOP,
    "kill_them_all": Order.STOP_NOW,
    "grace_them_all": Order.RELOAD,
    "reap_them_all": Order.RELOAD_NOW,
    "uwsgi_chain_reload": Order.RELOAD_WEB,
    "uwsgi_reload_workers": Order.RECYCLE,
    "uwsgi_brutally_reload_workers": Order.RECYCLE_NOW,
    "suspend_resume_them_all": Order.PAUSE,
    "stats": Order.STATS,
    "uwsgi_log_reopen": Order.LOG_REOPEN,
    "uwsgi_log_rotate": Order.LOG_ROTATE,
    "uwsgi_update_pidfiles": Order.PIDFILES,
    "vassal_sos": Order.SOS,
    "uwsgi_cheaper_decrease": Order.CHEAPER,
    "uwsgi_cheaper_increase": Order.DEARER,
    "uwsgi_go_cheap": Order.GO_CHEAP,
    "uwsgi_refork_master": Order.REFORK,
}


def order_of(letter: str) -> Order | None:
    """The order of a letter; None for one that uWSGI doesn't know either, and passes over."""
    try:
        return Order(letter)
    except ValueError:
        return None


def function(name: str) -> Order:
    """The order of a function. Raises ConfigError."""
    try:
        return FUNCTIONS[name]
    except KeyError:
        known = ", ".join(sorted(FUNCTIONS))
        raise ConfigError(
            f"cannot call {name}: instar has no such function{did_you_mean(name, FUNCTIONS)}; known are {known}"
        ) from None
