"""`instar restart`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any
from urllib.parse import quote

import typer

from instar.cli._emperor import EmperorDir, VassalName, find_emperor
from instar.cli._options import ConfigFile, Json, Name, StateDir
from instar.cli._stages import follow_handover
from instar.cli._target import find_client
from instar.errors import ConfigError


def restart(
    vassal: VassalName = None,
    now: Annotated[
        bool, typer.Option("--now", help="End a drain that still goes on instead of waiting for it.")
    ] = False,
    keep_old: Annotated[
        str | None,
        typer.Option(
            metavar="TIME",
            help="Keep the old generation warm for this long (10m): `instar rollback` then takes milliseconds.",
            show_default="restart.keep_old",
        ),
    ] = None,
    canary_share: Annotated[
        str | None,
        typer.Option(metavar="SHARE", help="Send this share of new connections (5%) first.", rich_help_panel="Canary"),
    ] = None,
    canary_network: Annotated[
        list[str] | None,
        typer.Option(
            metavar="CIDR", help="Send clients of this network first (10.1.0.0/16); repeat.", rich_help_panel="Canary"
        ),
    ] = None,
    canary_for: Annotated[
        str | None, typer.Option(metavar="TIME", help="How long the canary lasts (2m).", rich_help_panel="Canary")
    ] = None,
    web: Annotated[
        bool, typer.Option("--web", help="Only the web workers (and the services).", rich_help_panel="Parts")
    ] = False,
    handlers: Annotated[bool, typer.Option("--handlers", help="Only the handlers.", rich_help_panel="Parts")] = False,
    pool: Annotated[
        list[str] | None,
        typer.Option(metavar="POOL", help="Only the handlers of this pool; repeat.", rich_help_panel="Parts"),
    ] = None,
    json: Json = False,
    config: ConfigFile = None,
    name: Name = None,
    state_dir: StateDir = None,
    emperor: EmperorDir = None,
) -> None:
    """Replace the running generation by one with the code and configuration that are on disk now.

    Web workers and handlers are replaced, or only those that an option names. Blocks until the old generation
    has drained, and shows each stage. No request is dropped. If the new code fails to boot, to answer the probe, or
    within the grace period, the old generation serves on: exit code 3. Exit code 6: all is done, but a handler that
    may do so (keep_name) keeps its name in the old code.

    With the name of a vassal: that of an Emperor. One that doesn't run, or waits after failures, is started at once.

    \b
    Examples:
      instar restart
      instar restart --keep-old 10m
      instar restart --pool mail
      instar restart --canary-share 5% --canary-for 2m
      instar restart shop --emperor /etc/mysites
      instar restart --json | jq .outcome
    """
    body = {
        "now": now,
        "keep_old": _seconds(keep_old, "--keep-old"),
        "canary": _canary(canary_share, canary_network or [], canary_for),
    }
    body |= _parts(web, handlers, pool or [], body)
    if vassal is not None:
        path, client = f"/v1/vassals/{quote(vassal, safe='')}/restart", find_emperor(emperor)
    elif emperor is not None:
        raise ConfigError("cannot restart an Emperor: name one of its vassals, as in `instar restart VASSAL`")
    else:
        path, client = "/v1/restart", find_client(config, name, state_dir)
    raise typer.Exit(follow_handover(client.stream("POST", path, body), what="restart", as_json=json))


def _parts(web: bool, handlers: bool, pools: list[str], body: dict[str, Any]) -> dict[str, Any]:
    """`parts` and `pools` of the request; nothing when all is restarted."""
    if not (web or handlers or pools):
        return {}
    if handlers and pools:
        raise ConfigError("cannot use --handlers with --pool: the one means all pools, the other some; leave one out")
    if not web and body["canary"] is not None:
        raise ConfigError("cannot use --canary-share or --canary-network without the web workers; add --web")
    parts = [name for name, wanted in (("web", web), ("handlers", handlers or bool(pools))) if wanted]
    return {"parts": parts, "pools": pools} if pools else {"parts": parts}


def _canary(share: str | None, networks: list[str], duration: str | None) -> dict[str, Any] | None:
    if share is None and not networks:
        if duration is not None:
            raise ConfigError(
                "cannot use --canary-for alone: say who comes first with --canary-share or --canary-network"
            )
        return None
    from instar.config.types import parse_network

    return {
        "share": 0.0 if share is None else _parsed(_share, share, "--canary-share"),
        "networks": [str(_parsed(parse_network, network, "--canary-network")) for network in networks],
        "duration": _seconds(duration, "--canary-for"),
    }


def _share(text: object) -> float:
    from instar.config.units import parse_share

    try:
        share = parse_share(float(str(text)))
    except ValueError:
        share = parse_share(text)
    if not 0 <= share < 1:
        raise ValueError('must be a share below 1 such as 0.1 or "10%"')
    return share


def _seconds(text: str | None, option: str) -> float | None:
    if text is None:
        return None
    from instar.config.units import parse_duration

    return float(_parsed(parse_duration, text, option))


def _parsed(parse: Callable[[object], Any], text: str, option: str) -> Any:
    try:
        return parse(text)
    except ValueError as error:
        raise ConfigError(f"cannot use {option} {text}: the value {error}") from error
