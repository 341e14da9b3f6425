"""What an instance tells the application's processes."""

from __future__ import annotations

from pathlib import Path

from instar.config import Extension
from instar.uwsgi.model import Instance, Mule

#: Target of the handlers that are mules; their pools have `handover = "cold"`.
MULE_TARGET = "instar.uwsgi.inside.mule:run"
#: Target (with `factory`) of applications that `module:attr` can't express.
APPLICATION_TARGET = "instar.uwsgi.inside.application:build"
#: The queue that any mule takes messages from.
COMMON_QUEUE = "uwsgi:mules"

_EXTENSION = "instar.uwsgi.inside.extension:UwsgiExtension"


def extension_of(instance: Instance) -> Extension:
    """The extension of the instance's configuration: `config.extended(extension_of(instance))`."""
    data = {
        # A list: order and repeated keys matter.
        "options": [[option.key, None if option.bare else option.value] for option in instance.options],
        "source": str(instance.source or ""),
        "server_name": instance.server_name,
        "mules": [_mule(mule, instance) for mule in instance.mules],
        "farms": {farm.name: list(farm.mules) for farm in instance.farms},
    }
    pools = {mule.pool for mule in instance.mules}
    queues = tuple(farm.name for farm in instance.farms if farm.name not in pools)
    return Extension(_EXTENSION, data, (COMMON_QUEUE, *queues) if instance.mules else ())


def _mule(mule: Mule, instance: Instance) -> dict[str, object]:
    # Relative to the release, which is pinned: through a symbolic link, a new script would meet the old application.
    base = instance.config.app.chdir if instance.config else Path("/")
    script = mule.script or Path()
    if script.is_relative_to(base):
        script = script.relative_to(base)
    return {
        "number": mule.number,
        "name": mule.name,
        "pool": mule.pool,
        "script": str(script) if mule.script else "",
        "target": mule.target,
        "farms": list(mule.farms),
    }
