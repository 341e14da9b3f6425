"""How a server that runs as a plain command takes part in draining: through its environment.

The worker process execs the command; the descriptors named here stay open across that exec, and
`instar.middleware` in the application finds them.
"""

from __future__ import annotations

import os
from typing import NamedTuple

from instar.runtime.current import set_worker
from instar.runtime.drain import DrainState
from instar.runtime.probe import Probe
from instar.runtime.scoreboard import HEADER, ROW, Scoreboard
from instar.runtime.spec import GenerationSpec

SCOREBOARD_FD = "INSTAR_SCOREBOARD_FD"
ROW_NUMBER = "INSTAR_ROW"
WORKER_NAME = "INSTAR_WORKER"
WORKER_INDEX = "INSTAR_WORKER_INDEX"
GENERATION = "INSTAR_GENERATION"
NONCE = "INSTAR_PROBE_NONCE"
ALL = (SCOREBOARD_FD, ROW_NUMBER, WORKER_NAME, WORKER_INDEX, GENERATION, NONCE)


class Attachment(NamedTuple):
    """What `attach` found."""

    state: DrainState
    probe: Probe


def environment(spec: GenerationSpec, board: Scoreboard, row: int) -> dict[str, str]:
    """The variables for a command on one row of the scoreboard. Makes the scoreboard's descriptor inheritable."""
    index = row % spec.workers
    os.set_inheritable(board.fd, True)
    return {
        SCOREBOARD_FD: str(board.fd),
        ROW_NUMBER: str(row),
        WORKER_NAME: f"{spec.app_name}.{spec.slot}.{index + 1}",
        WORKER_INDEX: str(index),
        GENERATION: str(spec.generation),
        NONCE: spec.nonce,
    }


def attach() -> Attachment | None:
    """Attach this process to the scoreboard that its environment names; None when it names none.

    The secret leaves the environment, so that programs started by the application don't get it.
    """
    if SCOREBOARD_FD not in os.environ:
        return None
    found = {name: os.environ[name] for name in ALL}
    del os.environ[NONCE], os.environ[SCOREBOARD_FD]
    fd = int(found[SCOREBOARD_FD])
    os.set_inheritable(fd, False)
    board = Scoreboard(fd, (os.fstat(fd).st_size - HEADER) // ROW)
    state = DrainState(board, int(found[ROW_NUMBER]))
    index, generation = int(found[WORKER_INDEX]), int(found[GENERATION])
    set_worker(found[WORKER_NAME], index + 1, generation, state)
    return Attachment(state, Probe(found[NONCE], generation, index))
