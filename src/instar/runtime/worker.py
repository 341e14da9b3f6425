"""Inside a freshly forked worker: shed what belongs to the zygote, serve, leave."""

from __future__ import annotations

import atexit
import contextlib
import functools
import json
import os
import signal
import socket
import sys
from collections.abc import Callable
from typing import Any, NoReturn

from instar import engines
from instar.engines.base import Interface, ListenSocket, ServeJob
from instar.errors import InstarError
from instar.handlers import messages
from instar.runtime import attach, current, extension, middleware
from instar.runtime.drain import DrainState
from instar.runtime.gate import WorkerGate
from instar.runtime.linger import Linger
from instar.runtime.loader import Application, explain, load
from instar.runtime.output import redirect_output
from instar.runtime.quiesce import quiesce
from instar.runtime.scoreboard import Column, Drain, Scoreboard, State
from instar.runtime.spec import GenerationSpec
from instar.runtime.survey import Survey
from instar.runtime.uwsgi_entry import SPEC_FD
from instar.runtime.watch import MEMORY_EVERY, MEMORY_RARELY, Watch

#: How long a leaving worker reads what its clients still send.
LINGER = 1.0


class WorkerProcess:
    """One worker. Everything here runs in the forked child."""

    def __init__(
        self,
        spec: GenerationSpec,
        board: Scoreboard,
        index: int,
        row: int,
        *,
        tell: Callable[[bytes], object],
        gate_fd: int | None,
    ) -> None:
        self._spec = spec
        self._board = board
        self._index = index
        self._row = row
        self._tell = tell
        self._gate_fd = gate_fd
        self.name = f"{spec.app_name}.{spec.slot}.{index + 1}"
        self.sockets = tuple(
            ListenSocket(
                item.fds[index % len(item.fds)],
                "unix" if item.family == "unix" else "tcp",
                item.address,
                "uwsgi" if item.protocol == "uwsgi" else "http",
            )
            for item in spec.listeners
        )
        self._drain = DrainState(board, row)
        self._linger = Linger(self.sockets)

    def run(self, app: Application | None) -> int:
        """Serve until SIGTERM; returns the exit code. A failure before readiness is told to the zygote."""
        extending = extension.get()
        try:
            self._settle()
            if app is None and self._spec.target:
                app = load(self._spec.target, factory=self._spec.factory, interface=self._spec.interface)
                if extending:
                    extending.loaded(app)
            if extending:
                extending.before_serving()
            code = self._serve(app)
            self._linger.release(LINGER)
        except SystemExit as error:
            code = error.code if isinstance(error.code, int) else 0 if error.code is None else 1
            if code and self._board.get(self._row, Column.STATE) == State.STARTING:
                self._report(f"the application left with exit status {code} while starting")
        except BaseException as error:
            text = explain(error)
            print(text, end="", file=sys.stderr, flush=True)
            self._report(str(error) if isinstance(error, InstarError) else f"{type(error).__name__}: {error}", text)
            code = 1
        return code

    def _settle(self) -> None:
        redirect_output(self._spec.output_dir, f"web.{self._index + 1}")
        close_foreign(self._spec, self.sockets)
        messages.install_queues({queue.name: queue.ends for queue in self._spec.queues})
        board, row = self._board, self._row
        board.set(row, Column.PID, os.getpid())
        board.set(row, Column.STATE, State.STARTING)
        board.set(row, Column.CAPACITY, self._spec.options.threads if self._spec.interface == "wsgi" else 0)
        os.environ["INSTAR_WORKER"] = self.name
        if self._spec.engine in engines.BECOME_PROGRAMS:
            os.environ.update(attach.environment(self._spec, board, row))
        if self._spec.engine == "uwsgi":
            os.environ[SPEC_FD] = str(_written(self._spec.to_json()))
        current.set_worker(self.name, self._index + 1, self._spec.generation, self._drain)
        signal.signal(signal.SIGUSR1, lambda *_: self._linger.hold())
        signal.signal(signal.SIGUSR2, lambda *_: self._quiesce())
        if extending := extension.get():
            extending.in_worker(self._index + 1, self._row)
        current.run_post_fork_hooks()

    def _quiesce(self) -> None:
        self._board.set(self._row, Column.STATE, State.STOPPING)
        quiesce(self.sockets)

    def _serve(self, app: Application | None) -> int:
        interface: Interface = app.interface if app else "wsgi"
        wrapped: Any = None
        if app:
            wrapped = middleware.wrap(app.callable, interface, self._spec, self._board, self._row, self._drain)
            if interface == "wsgi":
                self._board.set(self._row, Column.CAPACITY, self._spec.options.threads)
        # A program that the process becomes has its own, or none: a last beat of ours would look like a stuck process.
        if self._spec.engine not in engines.BECOME_PROGRAMS:
            self._watch()
        gated = self._gate_fd is not None
        gate = WorkerGate(self._gate_fd, wrapped, interface, self._spec.probe_path if gated else "", self._ready)
        return engines.for_sockets(self._spec.engine, (item.protocol for item in self.sockets)).serve(
            ServeJob(
                app=wrapped,
                interface=interface,
                sockets=self.sockets,
                options=self._spec.options,
                worker_id=self._index + 1,
                ready=(lambda: None) if gated else self._ready,
                gate=gate,
                must_close=lambda: self._drain.level is not Drain.LIVE,
                uwsgi_app=wrapped.single if wrapped and interface == "wsgi" else None,
                multiprocess=self._spec.workers > 1,
            )
        )

    def _watch(self) -> None:
        # A daemon thread, started after the fork. SIGUSR1 and SIGUSR2 still reach the main thread:
        # Python runs handlers only there.
        Watch(
            self._board,
            self._row,
            oldest=self._drain.oldest,
            drain=self._drain.poll,
            survey=functools.partial(Survey(self.sockets).look, self._drain.http2_peers),
            memory_every=MEMORY_EVERY if self._spec.max_memory else MEMORY_RARELY,
        ).start()

    def _ready(self) -> None:
        self._board.set(self._row, Column.STATE, State.READY)
        self._say({"event": "ready", "pid": os.getpid()})

    def _report(self, error: str, trace: str = "") -> None:
        self._say({"event": "failed", "pid": os.getpid(), "error": error[:2000], "traceback": trace[-20000:]})

    def _say(self, message: dict[str, Any]) -> None:
        # A zygote that was killed must not take its workers along.
        with contextlib.suppress(OSError):
            self._tell(json.dumps(message).encode())


def leave(code: int, last: Callable[[], object] | None = None) -> NoReturn:
    """End a forked child: the application's exit handlers, then out without the zygote's clean-up.

    `last` runs when none of the application's code is left to run.
    """
    extension.run_at_exit()
    with contextlib.suppress(BaseException):
        atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(BaseException):
            stream.flush()
    if last:
        with contextlib.suppress(BaseException):
            last()
    os._exit(code)


def _written(document: str) -> int:
    """Descriptor of a file in memory."""
    fd = os.memfd_create("instar-spec", os.MFD_CLOEXEC)
    os.write(fd, document.encode())
    return fd


def close_foreign(spec: GenerationSpec, kept: tuple[ListenSocket, ...]) -> None:
    """Close the listening sockets of other rows and of the other slot: only the zygote holds those."""
    mine = {item.fd for item in kept}
    for listener in spec.listeners:
        for fd in {*listener.fds, *listener.held} - mine:
            with contextlib.suppress(OSError):
                os.close(fd)


def pair() -> tuple[socket.socket, socket.socket]:
    """The way from the workers to their zygote: one message a datagram, any number of writers."""
    receiver, sender = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    receiver.setblocking(False)
    return receiver, sender
