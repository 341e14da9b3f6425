"""The Emperor: one process that runs a directory of vassals, each in a process (mostly: a supervisor) of its own.

`run` is its life. It shares nothing with the vassals but their files, and they outlive it.
"""

from __future__ import annotations

from instar.uwsgi.emperor.command import run
from instar.uwsgi.emperor.settings import EmperorSettings

__all__ = ["EmperorSettings", "run"]
