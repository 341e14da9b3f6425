"""`instar jobs`: durable jobs. One module for each sort of command."""

from __future__ import annotations

# In the order of the help text: a module registers its commands when it is imported.
# isort: off
from instar.cli.jobs._app import jobs
from instar.cli.jobs import submit
from instar.cli.jobs import look
from instar.cli.jobs import wait
from instar.cli.jobs import change
# isort: on

__all__ = ["change", "jobs", "look", "submit", "wait"]
