"""`[services.NAME]`: other commands that the supervisor keeps running."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from instar.config.table import Table, setting
from instar.config.types import Argv, Duration, OptionalPath, Period, Variables


class Service(Table):
    """A command that belongs to the application and has no name to guard."""

    command: Annotated[Argv, Field(min_length=1)] = setting(
        ...,
        "Program and arguments; no shell runs them. `{python}` stands for the application's interpreter.",
        unit="list of words",
        example=["{python}", "-m", "mysite.mailer"],
    )
    chdir: OptionalPath = setting(None, "Folder that it runs in. Empty: that of `[app]`.", unit="path")
    env: Variables = setting(
        {}, "More environment variables, besides those of the application.", unit="table of texts", repr=False
    )
    restart: Literal["always", "on-failure", "never"] = setting(
        "always", "Whether to start it again when it ends by itself.", unit="choice"
    )
    handover: Literal["restart", "overlap", "keep"] = setting(
        "restart",
        "What a restart does with it: stop it, then start the new one (`restart`), start the new one first "
        "(`overlap`), or leave it alone (`keep`).",
        unit="choice",
    )
    stop_timeout: Duration = setting(10.0, "Time from SIGTERM to SIGKILL.", unit="seconds")
    backoff: Period = setting(
        0.5, "Pause before it is started again; it doubles each time that the command ends early.", unit="seconds"
    )
    backoff_limit: Period = setting(30.0, "Longest such pause.", unit="seconds")
