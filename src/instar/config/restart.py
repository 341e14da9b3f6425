"""`[restart]`: how one generation follows another."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field, model_validator

from instar.config.hook import HOOK_TIMEOUT, Hooks, with_timeout
from instar.config.table import Table, setting
from instar.config.types import Count, Duration, Networks, Period, Share


class Canary(Table):
    """`[restart.canary]`: let the new generation serve some clients before all."""

    share: Share = setting(0.0, "Share of new connections that the new generation gets.", unit="share", example="10%")
    networks: Networks = setting(
        (),
        "Clients that the new generation gets, by the address that connects: behind a proxy that is the proxy's.",
        unit="list of networks",
        example=["10.1.0.0/16", "2001:db8::/32"],
    )
    duration: Duration = setting(30.0, "How long the stage takes.", unit="seconds")
    max_error_rate: Annotated[Share, Field(le=1)] = setting(
        0.05, "Share of server errors (status 500 and above) that ends the restart with a rollback.", unit="share"
    )
    min_requests: Count = setting(20, "Requests before the error rate counts.", unit="count")

    @property
    def active(self) -> bool:
        """Whether there is a canary stage at all."""
        return self.share > 0 or bool(self.networks)


class Restart(Table):
    """Time limits, hooks and the way back."""

    boot_timeout: Period = setting(60.0, "Time for the new generation to load and to answer the probe.", unit="seconds")
    drain_timeout: Duration = setting(
        60.0,
        "Time for the old generation to finish its requests and lose its connections; longer than `keep_alive`.",
        unit="seconds",
    )
    stream_grace: Duration = setting(
        5.0,
        "Time from the cut-over until WebSockets and event streams of the old generation are closed properly.",
        unit="seconds",
    )
    grace: Duration = setting(
        3.0, "Time after the cut-over in which a crash of the new generation rolls back by itself.", unit="seconds"
    )
    keep_old: Duration = setting(
        0.0,
        "Keep the old generation warm for so long, so that `instar rollback` takes milliseconds. It costs its memory.",
        unit="seconds",
        example="10m",
    )
    boot_nice: Annotated[Count, Field(le=19)] = setting(
        5,
        "Niceness of a generation until it is ready, so that its boot does not slow the one that serves.",
        unit="niceness",
    )
    before: Hooks = setting(
        (),
        "Commands before the boot, such as migrations. When one fails, nothing has changed.",
        unit="list of commands",
        example=[["{python}", "manage.py", "migrate", "--noinput"]],
    )
    after: Hooks = setting((), "Commands after the cut-over. When one fails, it rolls back.", unit="list of commands")
    on_rollback: Hooks = setting((), "Commands after a rollback.", unit="list of commands")
    hook_timeout: Period = setting(HOOK_TIMEOUT, "Time that a hook may take which has no own limit.", unit="seconds")
    canary: Canary = setting(Canary(), "The canary stage.", unit="table")

    @model_validator(mode="before")
    @classmethod
    def _spread_timeout(cls, raw: Any) -> Any:
        if not isinstance(raw, dict) or "hook_timeout" not in raw:
            return raw
        keys = [key for key in ("before", "after", "on_rollback") if key in raw]
        return {**raw, **{key: with_timeout(raw[key], raw["hook_timeout"]) for key in keys}}
