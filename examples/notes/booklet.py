"""A job: sets all notes into one booklet, a page each. Run by a handler of the pool "press", as a program of its own.

It goes on while the application is restarted. What it writes to `INSTAR_JOB_PROGRESS` is shown on the page.
"""

from __future__ import annotations

import json
import os
import sqlite3
import sys
import textwrap
import time
from pathlib import Path

#: Seconds that a page takes, so that there is something to watch.
CARE = 0.5


def main(database: str, pages: int) -> int:
    """Print the booklet; its length in lines is the result."""
    with sqlite3.connect(database, timeout=10) as connection:
        notes = connection.execute("SELECT id, text FROM note ORDER BY id DESC LIMIT ?", (pages,)).fetchall()
    lines = 0
    for number, (note, text) in enumerate(notes, 1):
        page = [f"--- page {number}: note {note} ---", *textwrap.wrap(text, 60)]
        print("\n".join(page), flush=True)
        lines += len(page)
        time.sleep(CARE)
        tell("INSTAR_JOB_PROGRESS", {"done": number, "total": len(notes), "text": f"note {note}"})
    tell("INSTAR_JOB_RESULT", {"pages": len(notes), "lines": lines})
    return 0


def tell(variable: str, value: object) -> None:
    """Append a line of JSON to a file that the job was given."""
    with Path(os.environ[variable]).open("a") as file:
        file.write(json.dumps(value) + "\n")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], int(sys.argv[2])))
