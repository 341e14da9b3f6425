"""Starts the zygote of a new generation."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import socket
from collections.abc import Callable, Iterable
from pathlib import Path

from instar.errors import InstarError
from instar.listeners.base import Slot
from instar.runtime import channel
from instar.supervisor import jobs
from instar.supervisor.frontend import Frontend
from instar.supervisor.generation import Generation
from instar.supervisor.plan import Parts, Plan
from instar.supervisor.queues import Queues
from instar.supervisor.record import Record, Records, boot_id
from instar.supervisor.statedir import StateDir, appending, listen_unix
from instar.system import System, guarded, unix_address

_BOOTSTRAP = Path(channel.__file__).with_name("bootstrap.py")


def control_path(state: StateDir, number: int) -> Path:
    """Where the zygote of a generation listens, so that any supervisor finds it."""
    return state.app / f"g{number}.sock"


def launch(
    plan: Plan,
    number: int,
    slot: Slot,
    *,
    parts: Parts,
    frontend: Frontend,
    queues: Queues,
    state: StateDir,
    handler_dir: Path | None = None,
    system: System,
    note: Callable[[Generation, str, str], None],
) -> Generation:
    """Start the zygote; the generation is booting when this returns. Raises InstarError, OSError.

    `handler_dir`: folder of the lock files, if it is not the one in the state directory.
    """
    generation = Generation(number, slot, plan, parts, system, note)
    records = Records(state.control)
    who = plan.credentials
    handler_dir = handler_dir or state.handlers(who.uid, who.gid)
    output = state.generation_output(number, who.uid, who.gid)
    path = control_path(state, number)
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(listen_unix(path, socket.SOCK_SEQPACKET, 4))
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        stack.callback(connection.close)
        # Before the zygote starts: its first act is to accept, and then it reports how the import goes.
        with unix_address(path) as address:
            connection.connect(address)
        listeners = frontend.prepare(slot, number, plan) if parts.web else ()
        record = Record(
            number,
            slot,
            parts,
            plan,
            generation.nonce,
            os.fstat(generation.board.fd).st_ino,
            generation.rows,
            frontend.recorded(plan) if parts.web else (),
            boot_id=boot_id(),
        )
        records.write(record)
        spec = plan.spec(
            generation=number,
            slot=slot,
            parts=parts,
            listeners=listeners,
            handler_dir=handler_dir,
            queues=queues.specs(),
            control_fd=listener.fileno(),
            scoreboard_fd=generation.board.fd,
            output_dir=output,
            nonce=generation.nonce,
            gated=frontend.gated,
        )
        spec_fd = os.memfd_create("instar-spec", os.MFD_CLOEXEC)
        stack.callback(os.close, spec_fd)
        os.write(spec_fd, spec.to_json().encode())
        output_fd = stack.enter_context(appending(output / "zygote.out"))
        guarded.give(output_fd, who.uid, None)
        sockets = [fd for item in spec.listeners for fd in (*item.fds, *item.held)]
        try:
            process = system.spawn(
                [str(plan.python), "-P", str(_BOOTSTRAP), str(spec_fd)],
                env={
                    **plan.environment(),
                    **jobs.publish(plan.config, state, who, number),
                    "INSTAR_GENERATION": str(number),
                    "INSTAR_APP": plan.config.app.name,
                },
                cwd=plan.release,
                output=output_fd,
                pass_fds=[listener.fileno(), generation.board.fd, spec_fd, *sockets, *queues.fds()],
                rights=who,
            )
        except OSError as error:
            raise InstarError(f"cannot start {plan.python}: {error.strerror}; check app.python and app.user") from error
        try:
            records.write(dataclasses.replace(record, pid=process.pid, start_time=system.start_time(process.pid)))
        except OSError:
            # Nobody could ever adopt it.
            process.kill()
            system.finish(process)
            raise
        generation.attach(process, connection.dup())
    return generation


def lower_priority(generation: Generation, nice: int, system: System) -> bool:
    """Let a booting generation stand back behind the one that serves; False when it couldn't be undone later.

    Raising a priority again needs CAP_SYS_NICE or RLIMIT_NICE (setpriority(2)): without, it is left alone.
    """
    import resource

    allowed = os.geteuid() == 0 or 20 - resource.getrlimit(resource.RLIMIT_NICE)[0] <= 0
    if nice <= 0 or not allowed:
        return False
    with contextlib.suppress(OSError):
        system.set_priority(generation.pid, nice)
        return True
    return False


def restore_priority(generation: Generation, system: System) -> None:
    """Give a booted generation its normal priority."""
    pids: Iterable[int] = (generation.pid, *generation.workers, *generation.handlers)
    for pid in pids:
        with contextlib.suppress(OSError):
            system.set_priority(pid, 0)
