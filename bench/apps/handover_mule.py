"""What a mule of uWSGI runs: the application is loaded already, the mule works under the name of its number."""

from __future__ import annotations

import uwsgi
from handover_app import program

program(f"main.job-handlers.{uwsgi.mule_id()}")
