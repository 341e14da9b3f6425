"""`instar status`."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import quote

import typer

from instar.cli._emperor import EmperorDir, VassalName, emperor_meant, find_emperor, render_emperor, render_vassal
from instar.cli._format import console, count, escaped, print_json, seconds, size, styled, table
from instar.cli._handlers import handler_table, queue_table
from instar.cli._options import ConfigFile, Json, Name, StateDir
from instar.cli._target import find_client

if TYPE_CHECKING:
    from rich.console import Group
    from rich.table import Table

#: Seconds between two pictures of `--watch`.
REFRESH = 1.0


def status(
    vassal: VassalName = None,
    watch: Annotated[bool, typer.Option("-w", "--watch", help="Refresh every second until Ctrl-C.")] = False,
    json: Json = False,
    config: ConfigFile = None,
    name: Name = None,
    state_dir: StateDir = None,
    emperor: EmperorDir = None,
) -> None:
    """Show what runs: generations, workers, addresses, handlers, message queues, services.

    Of an Emperor: its vassals, or one of them.

    \b
    Examples:
      instar status
      instar status --watch
      instar status --emperor /etc/mysites
      instar status shop
      instar status --json | jq '.generations[] | {number, state}'
    """
    if vassal is not None:
        return _show_vassal(find_emperor(emperor), vassal, json)
    client = find_emperor(emperor) if emperor else find_client(config, name, state_dir)
    if emperor is None:
        client = emperor_meant(client, config, name, state_dir) or client
    if json:
        print_json(client.get("/v1/status"))
    elif watch and sys.stdout.isatty():
        _watch(client)
    else:
        answer = client.get("/v1/status")
        console().print(render(answer))
    return None


def _show_vassal(client: Any, vassal: str, json: bool) -> None:
    answer = client.get(f"/v1/vassals/{quote(vassal, safe='')}")
    if json:
        print_json(answer)
        return
    console().print(render_vassal(answer))
    if answer.get("supervisor"):
        console().print(render(answer["supervisor"]))


def _watch(client: Any) -> None:
    from rich.live import Live

    with Live(render(client.get("/v1/status")), console=console(), auto_refresh=False, screen=True) as live:
        try:
            while True:
                time.sleep(REFRESH)
                live.update(render(client.get("/v1/status")), refresh=True)
        except KeyboardInterrupt:
            return


def render(answer: dict[str, Any]) -> Group:
    """The answer of GET /v1/status as something that rich can print."""
    from rich.console import Group
    from rich.text import Text

    if "vassals" in answer:
        return render_emperor(answer)
    parts: list[Any] = [Text.from_markup(line) for line in _summary(answer)]
    if answer["generations"] or "pools" not in answer:
        parts += ["", _generations(answer["generations"])]
    if any(generation.get("workers") for generation in answer["generations"]):
        parts += ["", workers_table(answer["generations"])]
    for pool in answer.get("pools", []):
        parts += ["", Text(f"zerg pool {pool['path']}: {', '.join(pool['addresses'])}"), _zerglings(pool)]
    for router in answer.get("routers", []):
        state = f"on, {router['requests']} requests" if router["on"] else "off: zerglings of instar serve its socket"
        parts += ["", Text(f"router {router['address']} is {state}")]
    if answer.get("handlers"):
        parts += ["", handler_table(answer["handlers"])]
    if answer.get("queues"):
        parts += ["", queue_table(answer["queues"])]
    if answer.get("services"):
        parts += ["", _services(answer["services"])]
    notes = [f"note: {escaped(note)}" for note in answer.get("notes", [])]
    parts += ["", *(Text.from_markup(note) for note in notes)] if notes else []
    return Group(*parts)


def _summary(answer: dict[str, Any]) -> list[str]:
    web = answer.get("web") or {}
    head = f"[bold]{escaped(answer['app'])}[/] {styled(answer['state'])}, pid {answer['pid']}"
    lines = [f"{head}, up {seconds(answer.get('uptime'))}, instar {escaped(answer.get('version', '?'))}"]
    for bind in web.get("binds", []):
        lines.append(f"  {escaped(bind['address'])} ({escaped(bind['mode'])})")
    if (answer.get("upgrade") or {}).get("running"):
        lines.append("  an upgrade of instar is running")
    if handover := answer.get("handover"):
        stage = handover.get("stage") or "in progress"
        lines.append(f"  handover to generation {handover.get('generation', '?')}: {escaped(stage)}")
    return lines


def _zerglings(pool: dict[str, Any]) -> Table:
    result = table("zergling", "pid", "state")
    for item in pool.get("zerglings", []):
        result.add_row(escaped(item["name"] or "-"), str(item["pid"]), styled(item["state"]))
    for pid in pool.get("foreign", []):
        result.add_row("(another program)", str(pid), "-")
    return result


def _generations(generations: list[dict[str, Any]]) -> Table:
    result = table("generation", "state", "slot", "zygote", "age", "release")
    for item in generations:
        note = item.get("note") or ""
        if item.get("kept_until"):
            note = f"kept for {seconds(max(0.0, item['kept_until'] - time.time()))}"
        state = styled(item["state"]) + (f" ({escaped(note)})" if note else "")
        age = seconds(max(0.0, time.time() - item["since"])) if item.get("since") else "-"
        row = (item["number"], item.get("slot"), item.get("pid"), age, item.get("release"))
        number, slot, pid, age, release = (escaped("-" if value is None else value) for value in row)
        result.add_row(number, state, slot, pid, age, release)
    return result


def workers_table(generations: list[dict[str, Any]]) -> Table:
    """The workers of `generations` of GET /v1/status."""
    numbers = ("requests", "errors", "in flight", "connections", "memory", "restarts")
    result = table("worker", "generation", "pid", "state", *numbers, right=numbers)
    for generation in generations:
        for worker in generation.get("workers", []):
            counts = [worker.get(key.replace(" ", "_")) for key in numbers]
            shown = [
                size(value) if key == "memory" else count(value) for key, value in zip(numbers, counts, strict=True)
            ]
            origin = (escaped(worker["name"]), str(generation["number"]), count(worker.get("pid")))
            result.add_row(*origin, styled(worker["state"]), *shown)
    return result


def _services(services: list[dict[str, Any]]) -> Table:
    result = table("service", "pid", "state", "restarts")
    for item in services:
        result.add_row(
            escaped(item["name"]), count(item.get("pid")), styled(item.get("state", "?")), count(item.get("restarts"))
        )
    return result
