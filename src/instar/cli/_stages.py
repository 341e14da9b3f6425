"""Shows a handover while it runs, and turns its result into words and an exit code."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Protocol

from instar.cli._format import escaped, print_json, seconds
from instar.errors import ExitCode, InstarError
from instar.supervisor.logrecord import printable

if TYPE_CHECKING:
    from rich.live import Live
    from rich.table import Table

_CODES = {
    "done": ExitCode.DONE,
    "rolled-back": ExitCode.ROLLED_BACK,
    "busy": ExitCode.BUSY,
    "failed": ExitCode.UNEXPECTED,
}
#: Seconds between two progress lines of one stage where there is no terminal.
PROGRESS_EVERY = 5.0
#: A wait for the previous drain is only mentioned from this many seconds on.
WORTH_SHOWING = 0.1


def follow_handover(events: Iterable[dict[str, Any]], *, what: str, as_json: bool) -> ExitCode:
    """Show the stages of a `restart`, `rollback` or `move main.mail.1` (`what`) and its result; returns the exit code.

    Raises InstarError when the events end without a result. With `as_json` the result object is all that is printed.
    """
    started = time.monotonic()
    try:
        result = _show(events, _Silent() if as_json else _Terminal() if sys.stdout.isatty() else _Lines())
    except KeyboardInterrupt:
        text = f"the {what} goes on without you; `instar status` shows how far it is"
        raise InstarError(f"cannot wait any longer: interrupted; {text}") from None
    if result is None:
        text = "the supervisor closed the connection; see `instar status` and `instar logs`"
        raise InstarError(f"cannot tell how the {what} ended: {text}")
    result.setdefault("seconds", time.monotonic() - started)
    if as_json:
        print_json({key: value for key, value in result.items() if key != "event"})
    else:
        _report(result, what)
    code = _CODES.get(str(result.get("outcome")), ExitCode.UNEXPECTED)
    return ExitCode.HANDLER_KEPT if code is ExitCode.DONE and result.get("kept") else code


def _unremarkable(event: dict[str, Any]) -> bool:
    """Skipped without a reason, or a wait that wasn't one."""
    if event["state"] == "skipped":
        return not event.get("detail")
    return event["stage"] == "wait" and event["state"] == "done" and (event.get("seconds") or 0.0) < WORTH_SHOWING


class _View(Protocol):
    def __enter__(self) -> object: ...

    def __exit__(self, *unused: object) -> None: ...

    def stage(self, event: dict[str, Any]) -> None: ...


def _show(events: Iterable[dict[str, Any]], view: _View) -> dict[str, Any] | None:
    result = None
    with view:
        for event in events:
            if event.get("event") == "stage":
                view.stage(event)
            elif event.get("event") == "result":
                result = event
    return result


class _Silent:
    """For `--json`."""

    def __enter__(self) -> None:
        return None

    def __exit__(self, *unused: object) -> None:
        return None

    def stage(self, event: dict[str, Any]) -> None:
        """Nothing: scripts want the result alone."""


class _Lines(_Silent):
    """A line for each stage that ended, and now and then one for a stage that takes its time."""

    def __init__(self) -> None:
        self._last = time.monotonic()

    def stage(self, event: dict[str, Any]) -> None:
        """Print what is worth a line in a log file."""
        if _unremarkable(event):
            return
        name, state, detail = event["stage"], event["state"], printable(str(event.get("detail") or ""))
        suffix = f": {detail}" if detail else ""
        if state in ("done", "failed"):
            print(f"{name} {state} ({seconds(event.get('seconds'))}){suffix}", flush=True)
        elif state == "skipped":
            print(f"{name} skipped{suffix}", flush=True)
        elif state == "progress" and time.monotonic() - self._last > PROGRESS_EVERY:
            self._last = time.monotonic()
            print(f"{name} …{suffix}", flush=True)


class _Terminal:
    """A picture of all stages that have begun, redrawn as they move on."""

    _SIGNS = {"done": "[green]✓[/]", "failed": "[red]✗[/]", "skipped": "[dim]-[/]"}

    def __init__(self) -> None:
        self._stages: dict[str, dict[str, Any]] = {}
        self._begun: dict[str, float] = {}
        self._live: Live | None = None

    def __enter__(self) -> None:
        from rich.live import Live

        from instar.cli._format import console

        self._live = Live(get_renderable=self._render, console=console(), refresh_per_second=8)
        self._live.start()

    def __exit__(self, *unused: object) -> None:
        if self._live is not None:
            self._live.stop()

    def stage(self, event: dict[str, Any]) -> None:
        """Take over the newest state of a stage."""
        self._begun.setdefault(event["stage"], time.monotonic())
        self._stages[event["stage"]] = event
        if self._live is not None:
            self._live.refresh()

    def _render(self) -> Table:
        from rich.spinner import Spinner
        from rich.table import Table

        table = Table.grid(padding=(0, 1))
        for name, event in list(self._stages.items()):
            state, detail = event["state"], escaped(event.get("detail") or "")
            if _unremarkable(event):
                continue
            running = state not in self._SIGNS
            took = time.monotonic() - self._begun[name] if running else event.get("seconds")
            table.add_row(
                Spinner("dots") if running else self._SIGNS[state],
                f"[bold]{escaped(name)}[/]",
                "" if state == "skipped" else seconds(took),
                f"[dim]{detail}[/]",
            )
        return table


def _report(result: dict[str, Any], what: str) -> None:
    generation, took = result.get("generation"), seconds(result.get("seconds"))
    if result.get("outcome") == "done":
        print(f"{what} done in {took}{_now(result)}", flush=True)
        if result.get("kept"):
            print(f"instar: {_kept([printable(str(name)) for name in result['kept']])}", file=sys.stderr)
        return
    sys.stdout.flush()
    error = printable(str(result.get("error") or "no reason was given"))
    verb = "roll back" if what == "rollback" else what
    if result.get("outcome") == "busy":
        print(f"instar: {error}" if error.startswith("cannot ") else f"instar: cannot {verb}: {error}", file=sys.stderr)
        return
    tail = result.get("log_tail") or []
    if tail:
        who = f"generation {generation}" if generation else printable(str(result.get("vassal", "it")))
        who = "the self-test" if "to_version" in result else who
        print(f"last lines of {who}:", file=sys.stderr)
        for line in tail:
            print(f"  {printable(str(line))}", file=sys.stderr)
    serving = result.get("serving", result.get("from"))
    survivor = f"; generation {serving} serves on" if result.get("outcome") == "rolled-back" and serving else ""
    to = f" to generation {generation}" if "handler" not in result and generation else ""
    if "to_version" in result:
        to, survivor = " instar", f"; {printable(str(result.get('version')))} runs on"
    what, name = f"cannot {verb}{to}", result.get("handler", result.get("vassal"))
    # The supervisor's own sentence, if it says which handler or vassal it is about.
    whole = name is not None and str(name) in error and error.startswith("cannot ")
    print(f"instar: {error}" if whole else f"instar: {what}: {error}{survivor}", file=sys.stderr)


def _now(result: dict[str, Any]) -> str:
    """What runs after a success."""
    generation, before = result.get("generation"), result.get("from")
    if "vassal" in result and not generation:
        return f": {printable(str(result['vassal']))} runs"
    if "handler" in result:  # a single one
        state = printable(str(result.get("state") or ""))
        epoch = f", epoch {result['epoch']}" if result.get("epoch") else ""
        where = f" in generation {generation}{epoch}" if generation else ""
        return f": {state}{where}" if state else ""
    if result.get("to_version"):
        return f": instar {printable(str(result['version']))} runs (before: {printable(str(result['from_version']))})"
    if result.get("parts") == ["handlers"]:
        return f": handlers run in generation {generation} (before: {before})"
    if not generation or generation == before:
        return ""
    return f": generation {generation} serves (before: {before})"


def _kept(names: list[str]) -> str:
    listed = ", ".join(names)
    one = len(names) == 1
    why = "it was not finished in stop_timeout and keeps its name" if one else "they were not finished and keep theirs"
    return f"cannot move {listed} yet: {why} in the old code; later, `instar handlers move {names[0]}` tries again"
