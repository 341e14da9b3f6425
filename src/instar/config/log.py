"""`[log]`: where the lines of all processes go."""

from __future__ import annotations

from typing import Literal

from instar.config.table import Table, setting
from instar.config.types import Count, OptionalPath, Size, Switch


class Log(Table):
    """Every line of every process is kept with its time, generation and role; `instar logs` shows them."""

    level: Literal["debug", "info", "warning", "error"] = setting(
        "info", "Least severe messages of instar and its engine that are logged.", unit="choice"
    )
    format: Literal["text", "json"] = setting("text", "How lines are written to `stdout` and `file`.", unit="choice")
    file: OptionalPath = setting(
        None, "File to write to, rotated by size.", unit="path", example="/var/log/mysite/instar.log"
    )
    max_size: Size = setting("10M", "Size at which the file, and the kept log, is rotated.", unit="bytes")
    backups: Count = setting(5, "Rotated files to keep.", unit="count")
    stdout: Switch = setting(True, "Also write to standard output, as containers expect.", unit="switch")
