"""Evaluates what it is sent; tells what it is."""

import sys
from pathlib import Path

import uwsgi

from apps.uwsgi_app import note, on_message

note(f"{__name__} {Path(__file__).name} {sys.argv} {sorted(globals())[-4:]}")
while True:
    message = None
    try:
        message = uwsgi.mule_get_msg()
        on_message(message)
    finally:
        # A mule that is asked to leave doesn't come here.
        if message is None:
            note("finally")
