"""Handles SIGHUP itself: finishes what it has to, then ends."""

import signal
import sys

import uwsgi

from apps.uwsgi_app import note

leaving = False


def leave(number, frame):
    global leaving
    leaving = True
    note(f"signal {number}")


signal.signal(signal.SIGHUP, leave)
note("handles SIGHUP")
while not leaving:
    message = uwsgi.mule_get_msg(timeout=100)
    note(f"woken with {message!r}")
try:
    sys.exit(7)
finally:
    note("finally")
