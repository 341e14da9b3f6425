"""`instar systemd-unit`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from instar.cli._options import ConfigFile, Name
from instar.cli._target import DEFAULT_FILE
from instar.errors import ConfigError


def systemd_unit(
    user: Annotated[
        str | None,
        typer.Option(
            metavar="USER", help="Run the supervisor as this user too.", show_default="root, if [app] user is set"
        ),
    ] = None,
    config: ConfigFile = None,
    name: Name = None,
) -> None:
    """Print a systemd unit for the application: hardened, and with the reason for each line.

    Made for the instar and the configuration file that are used now. Nothing is written or started.

    \b
    Examples:
      instar systemd-unit -c /srv/shop/instar.toml > /etc/systemd/system/shop.service
      instar systemd-unit -c /srv/shop/instar.toml --user shop
    """
    from instar.config import load
    from instar.control.unit import UnitOptions, unit

    path = (config or DEFAULT_FILE).absolute()
    if not path.is_file():
        raise ConfigError(f"cannot make a unit: there is no configuration file {path}; name it with -c")
    loaded = load(path, overrides={"app.name": name} if name else {})
    if user and loaded.app.user and user != loaded.app.user:
        raise ConfigError(
            f"cannot run as {user}: the configuration has [app] user = {loaded.app.user}, and only root can change "
            "it; drop one of the two"
        )
    typer.echo(unit(loaded, UnitOptions(_program(), path, user or "")), nl=False)


def _program() -> tuple[str, ...]:
    """The instar that runs now, as a path that does not depend on the environment."""
    script = Path(sys.executable).with_name("instar")
    return (str(script),) if script.is_file() else (sys.executable, "-m", "instar")
