"""An application with handlers, for instar and for uWSGI.

`BENCH_GROW`: MB of memory that a handler takes as it works.
"""

from __future__ import annotations

import os
import time

import beats
from bench_app import wsgi

__all__ = ["handler", "wsgi"]

GROW = int(os.environ.get("BENCH_GROW", "0"))

if "BENCH_BEATS" in os.environ:
    beats.count_boot()


def handler() -> None:
    """A warm handler of instar."""
    import instar

    me = instar.current_handler()
    mine = beats.Beats(me.name)
    if not me.wait_active():
        return
    mine.beat()
    grown = bytearray(GROW << 20)
    for page in range(0, len(grown), 4096):
        grown[page] = 1
        if page % (1 << 20) == 0:
            mine.beat()
    while not me.releasing.wait(beats.PERIOD):
        mine.beat()


def program(name: str) -> None:
    """Work under a name until a signal ends the process: a cold program, a mule."""
    mine = beats.Beats(name)
    while True:
        mine.beat()
        time.sleep(beats.PERIOD)


if __name__ == "__main__":
    program(os.environ["INSTAR_HANDLER"])
