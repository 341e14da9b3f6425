"""How values are shown to people."""

from __future__ import annotations

import datetime
import json
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # rich is only loaded where something is drawn
    from rich.console import Console
    from rich.table import Table

_STATE_STYLES = {
    "serving": "green",
    "active": "green",
    "ready": "green",
    "done": "green",
    "running": "green",
    "booting": "yellow",
    "starting": "yellow",
    "draining": "yellow",
    "handover": "yellow",
    "stopping": "yellow",
    "releasing": "yellow",
    "kept": "cyan",
    "standby": "cyan",
    "busy": "yellow",
    "failed": "red",
    "rolled-back": "red",
    "crash": "red",
    "down": "red",
    "paused": "dim",
    "stopped": "dim",
}


def print_json(answer: dict[str, Any]) -> None:
    """The one object that `--json` promises."""
    print(json.dumps(answer, ensure_ascii=False), flush=True)


def console() -> Console:
    """Where tables go. In a pipe: no colours, and no lines cut to the width of a terminal that isn't there."""
    from rich.console import Console

    return Console(highlight=False, soft_wrap=True) if sys.stdout.isatty() else Console(highlight=False, width=200)


def styled(state: str) -> str:
    """A state with the colour that people expect, as console markup."""
    style = _STATE_STYLES.get(state)
    return f"[{style}]{state}[/]" if style else escaped(state)


def escaped(text: object) -> str:
    """Foreign text for a console: no markup, no escape sequences."""
    from rich.markup import escape

    from instar.supervisor.logrecord import printable

    return escape(printable(str(text)))


def table(*columns: str, right: tuple[str, ...] = ()) -> Table:
    """A table without lines; `right` names the columns of figures."""
    from rich.table import Table

    result = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    for column in columns:
        result.add_column(column, justify="right" if column in right else "left", overflow="fold")
    return result


def count(value: int | None) -> str:
    """A number, or `-` when it isn't known."""
    return "-" if value is None else str(value)


def seconds(value: float | None) -> str:
    """`0.3 ms`, `25 ms`, `1.52 s`, `12.1 s`, `4 min`, `3 h 20 min`, `5 d 3 h`."""
    if value is None:
        return "-"
    if value < 0.1:
        return f"{value * 1000:.0f} ms" if value >= 0.001 else f"{value * 1000:.1f} ms"
    if value < 10:
        return f"{value:.2f} s"
    if value < 120:
        return f"{value:.1f} s"
    minutes = int(value // 60)
    if minutes < 60:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    if hours < 24:
        return f"{hours} h {minutes} min"
    days, hours = divmod(hours, 24)
    return f"{days} d {hours} h"


def size(value: int | None) -> str:
    """Bytes as `12.3 MB`."""
    if value is None:
        return "-"
    amount = float(value)
    for unit in ("B", "kB", "MB"):
        if amount < 1000:
            return f"{amount:.0f} {unit}" if unit == "B" else f"{amount:.1f} {unit}"
        amount /= 1000
    return f"{amount:.1f} GB"


def moment(value: float | None) -> str:
    """Seconds since the epoch as local time."""
    return "-" if value is None else datetime.datetime.fromtimestamp(value).strftime("%Y-%m-%d %H:%M:%S")
