"""`instar version`."""

from __future__ import annotations

import platform

from instar import PROTOCOL, __version__
from instar.cli._format import print_json
from instar.cli._options import Json


def version(json: Json = False) -> None:
    """Show the version of instar and of the Python that it runs on.

    \b
    Examples:
      instar version
      instar version --json
    """
    if json:
        print_json({"version": __version__, "protocol": PROTOCOL, "python": platform.python_version()})
    else:
        print(f"instar {__version__} (Python {platform.python_version()}, protocol {PROTOCOL})")
