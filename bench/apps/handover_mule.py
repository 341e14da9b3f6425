"""What a mule of uWSGI runs: the application is loaded already, the mule works under the name of its number.

Under `instar run` it is a program of its own, as `instar convert` writes it.
"""

from __future__ import annotations

import os

from handover_app import program

try:
    import uwsgi
except ImportError:
    NAME = os.environ["INSTAR_HANDLER"]
else:
    NAME = f"main.job-handlers.{uwsgi.mule_id()}"

program(NAME)
