"""Ends, each time in another way; waits the last time."""

import sys
import time
from pathlib import Path

import uwsgi

from apps.uwsgi_app import EVENTS, note

path = Path(f"{EVENTS}.ending")
turn = len(path.read_text()) if path.exists() else 0
path.write_text("x" * (turn + 1))
note(f"turn {turn}")
if turn == 0:
    pass
elif turn == 1:
    raise ValueError("of the script")
elif turn == 2:
    sys.exit(3)
else:
    assert uwsgi.mule_id()
    while True:
        time.sleep(100)
