"""Functions that mules run."""

import time

import uwsgi

from apps.uwsgi_app import note


def work():
    """Say so, and stay."""
    note(f"work in {__name__}, farms {uwsgi.in_farm()}")
    while True:
        time.sleep(100)
