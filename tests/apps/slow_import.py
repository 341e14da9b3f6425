"""An application that takes `TEST_LONG` seconds to import; each import is written down beside the ledger."""

from __future__ import annotations

import os
import time
from typing import Any

with open(os.environ["TEST_LEDGER"] + ".imports", "a") as _file:
    _file.write(f"{os.getpid()}\n")
time.sleep(float(os.environ["TEST_LONG"]))


def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
    """Answers everything."""
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"ok"]
