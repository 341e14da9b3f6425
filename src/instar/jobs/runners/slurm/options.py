"""Parameters of a destination as options of sbatch."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import Any, Final

from instar.jobs.runners.base import RefusedError

#: Long options of sbatch(1) that say where, when and with what a job runs.
_OPTIONS: Final = """
    account bb bbf begin bell constraint contiguous core-spec cores-per-socket cpu-freq cpus-per-gpu cpus-per-task
    deadline delay-boot dependency distribution exclude exclusive extra-node-info gpu-bind gpu-freq gpus gpus-per-node
    gpus-per-socket gpus-per-task gres gres-flags hint kill-on-invalid-dep licenses mail-type mail-user mcs-label mem
    mem-bind mem-per-cpu mem-per-gpu mincpus network nice nodefile nodelist nodes no-kill ntasks ntasks-per-core
    ntasks-per-gpu ntasks-per-node ntasks-per-socket overcommit oversubscribe partition power prefer priority profile
    propagate qos reboot reservation signal sockets-per-node spread-job switches thread-spec threads-per-core time
    time-min tmp use-min-nodes wait-all-nodes wckey
"""
#: What is ours to say: with another value an attempt could not be found again, or would begin twice.
_OURS: Final = """
    array chdir clusters cluster-constraint comment error export export-file get-user-env input job-name no-requeue
    open-mode output parsable quiet requeue test-only uid gid wait wrap
"""
_KNOWN: Final = frozenset(_OPTIONS.split())
_OURS_TO_SAY: Final = frozenset(_OURS.split())
_OUR_LETTERS: Final = frozenset("aDeiJoMQW")
#: Options in one string, as several systems have them.
_NATIVE: Final = ("native_specification", "nativeSpecification", "submit_native_specification")


def sbatch_options(params: Mapping[str, Any]) -> tuple[list[str], list[str]]:
    """The options, and the names of parameters that mean nothing here. Raises RefusedError."""
    options, unknown = [], []
    for name, value in params.items():
        option = name.replace("_", "-")
        if name in _NATIVE:
            options += _native(str(value))
        elif option in _OURS_TO_SAY:
            raise RefusedError(f"cannot submit with {name}: instar sets that itself; take it out of the destination")
        elif option not in _KNOWN:
            unknown.append(name)
        elif value is True:
            options.append(f"--{option}")
        elif value is not False and value is not None:
            options.append(f"--{option}={value}")
    return options, unknown


def _native(text: str) -> list[str]:
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise RefusedError(f"cannot submit with {text!r}: {error}") from None
    for word in words:
        long = word.startswith("--") and word[2:].partition("=")[0] in _OURS_TO_SAY
        if long or (word[:1] == "-" and word[1:2] in _OUR_LETTERS):
            raise RefusedError(f"cannot submit with {word!r}: instar sets that itself; take it out of the destination")
    return words
