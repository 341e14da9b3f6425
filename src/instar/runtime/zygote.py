"""The zygote: loads the application once, forks workers and handlers from it, and replaces those that die.

It owns the processes of its generation and outlives the supervisor: without one it goes on serving and
respawning, and listens at its known path for the next supervisor.
"""

from __future__ import annotations

import gc
import json
import os
import selectors
import signal
import sys
from collections.abc import Callable
from pathlib import Path

from instar import PROTOCOL, engines
from instar.errors import InstarError
from instar.runtime import channel, extension, script
from instar.runtime.crew import Crew
from instar.runtime.link import Link
from instar.runtime.loader import Application, ForkHazards, explain, load, prepare_path
from instar.runtime.nursery import Nursery
from instar.runtime.output import show_as
from instar.runtime.parent import Phase
from instar.runtime.roster import Roster
from instar.runtime.scoreboard import Scoreboard
from instar.runtime.spec import GenerationSpec
from instar.runtime.worker import pair
from instar.system import System

#: Rows of a scoreboard that no worker uses: a memfd can't be mapped with length 0.
LEAST_ROWS = 1


class Zygote:
    """Owner of one generation's processes. Single-threaded: a fork must not lose threads."""

    def __init__(self, spec: GenerationSpec, system: System) -> None:
        self.spec = spec
        self.system = system
        self.board = Scoreboard(spec.scoreboard_fd, max(LEAST_ROWS, 2 * spec.workers))
        self.phase = Phase.BOOTING
        self.app: Application | None = None
        self._selector = selectors.DefaultSelector()
        self.nursery = Nursery(system, self._selector)
        self.link = Link(spec, self._selector, self._greet)
        self._events, self._events_writer = pair()
        self._wake, self._wake_writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self.nursery.in_child(self._shed)
        self._crew = Crew(self)
        self._roster = Roster(self)
        self._loaded: channel.Loaded | None = None
        self._failed = False

    def run(self) -> int:
        """Load, fork, watch until told to stop; returns the exit code."""
        self.link.accept_first()
        try:
            self._load()
        except BaseException as error:
            text = explain(error)
            print(text, end="", file=sys.stderr, flush=True)
            self.link.send(channel.Failed("import", _describe(error), text[-20000:]))
            self.link.flush_all(1.0)
            return 1
        self._watch_descriptors()
        self._crew.start()
        self._roster.start()
        while self.phase is not Phase.STOPPING or len(self.nursery) or self._roster.busy:
            self._step()
        self.link.flush_all(1.0)
        return 1 if self._failed else 0

    def tell(self, data: bytes) -> int:
        """In a child: send an event to the zygote."""
        return self._events_writer.send(data)

    def fail_boot(self, stage: str, error: str, trace: str = "") -> None:
        """The generation can't come up: say why, and end."""
        if not self._failed:
            self._failed = True
            self.link.send(channel.Failed(stage, error, trace))
        self._stop(self.spec.stop_timeout)

    # --- loading ----------------------------------------------------------------------------------

    def _load(self) -> None:
        spec, began = self.spec, self.system.monotonic()
        prepare_path(spec.chdir, spec.pythonpath)
        hazards = ForkHazards()
        extending = extension.install(spec, self.board, self.tell)
        extending.before_load()
        script.prepare(spec.handlers)
        notes = list(spec.lazy_notes)
        if spec.target and not spec.lazy:
            self.app = load(spec.target, factory=spec.factory, interface=spec.interface)
            found = hazards.found()
            if found and spec.lazy is None:
                self._become_lazy(found)
            notes += found
            extending.loaded(self.app)
        if spec.workers:
            engines.for_sockets(spec.engine, (item.protocol for item in spec.listeners)).preload(spec.options)
        gc.collect()
        # Objects made so far move to a generation that the collector never visits: it would write to their
        # headers and so unshare their pages (gc.freeze, Python documentation).
        gc.freeze()
        interface = self.app.interface if self.app else spec.interface
        self._loaded = channel.Loaded(self.system.monotonic() - began, interface, bool(spec.lazy), notes)
        self.link.send(self._loaded)

    def _become_lazy(self, notes: list[str]) -> None:
        """Start over in a clean process image that leaves the import to the workers."""
        raw = json.loads(self.spec.to_json())
        raw |= {"lazy": True, "lazy_notes": notes, "connection_fd": self.link.detach()}
        fd = os.memfd_create("instar-spec", 0)
        os.write(fd, json.dumps(raw).encode())
        sys.stdout.flush()
        sys.stderr.flush()
        bootstrap = str(Path(__file__).absolute().with_name("bootstrap.py"))
        os.execv(sys.executable, [sys.executable, "-P", bootstrap, str(fd)])  # noqa: S606

    # --- event loop -------------------------------------------------------------------------------

    def _watch_descriptors(self) -> None:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, lambda *_: None)
        signal.set_wakeup_fd(self._wake_writer, warn_on_full_buffer=False)
        self._selector.register(self._wake, selectors.EVENT_READ, self._on_signal)
        self._selector.register(self._events, selectors.EVENT_READ, self._on_events)
        self.link.watch(self._on_message)

    def _step(self) -> None:
        patience = min(self._crew.patience(), self._roster.patience())
        ready = self._selector.select(patience)
        # What a child said before it ended comes before its end.
        self._on_events(0)
        for key, mask in ready:
            handle: Callable[[int], None] = key.data
            handle(mask)
        now = self.system.monotonic()
        self._crew.step(now)
        self._roster.step(now)

    def _on_signal(self, _mask: int) -> None:
        if signal.SIGTERM in os.read(self._wake, 512):
            self._stop(self.spec.stop_timeout)

    def _on_events(self, _mask: int) -> None:
        while True:
            try:
                event = json.loads(self._events.recv(65536))
            except BlockingIOError:
                return
            if event["event"] == "ask":
                if self.spec.extension:
                    self.link.send(channel.Asked(event["what"]), keep=False)
            elif "handler" in event:
                self._roster.on_event(event)
            else:
                self._crew.on_event(event)

    def _greet(self) -> None:
        """Tell a supervisor that has just connected where we stand."""
        pidfd = self.system.pidfd_open(os.getpid())
        hello = channel.Hello(PROTOCOL, self.spec.generation, os.getpid())
        self.link.send(hello, (pidfd, self.board.fd))
        os.close(pidfd)
        if self._loaded:
            self.link.send(self._loaded)
        self.link.send_missed()
        self._crew.greet()
        self._roster.greet()

    def _on_message(self, message: channel.Message) -> None:
        match message:
            case channel.Greeting(protocol) if protocol < PROTOCOL:
                # Ours is the newer release: by the rule of compatibility it understands the older messages.
                print(f"instar: the supervisor speaks protocol {protocol}, this zygote {PROTOCOL}", file=sys.stderr)
            case channel.Commit():
                if self.phase is Phase.BOOTING:
                    self.phase = Phase.SERVING
                    self._crew.commit()
            case channel.Stop(timeout, keep_handlers):
                self._stop(timeout, keep_handlers=keep_handlers)
            case channel.Quiesce(on):
                self._crew.quiesce(on)
            case channel.Recycle(index, reason):
                self._crew.recycle(index, reason)
            case channel.ArmHandler(name):
                self._roster.arm(name)
            case channel.ReleaseHandler(name, successor):
                self._roster.release(name, successor=successor)
            case channel.StartHandler(name):
                self._roster.start_standby(name)
            case channel.GetSockets():
                self._hand_over()
            case _:
                pass

    def _hand_over(self) -> None:
        """Give a supervisor what it needs to follow one that died."""
        for item in self.spec.listeners:
            fds = item.fds + item.held
            for first in range(0, len(fds), channel.MAX_FDS):
                some = fds[first : first + channel.MAX_FDS]
                self.link.send(channel.Sockets(item.address, len(some)), some)
        for queue in self.spec.queues:
            self.link.send(channel.QueueEnds(queue.name), (queue.send_fd, queue.receive_fd))
        self.link.send(channel.Whole(self.phase is not Phase.BOOTING, self._crew.quiet))

    def _stop(self, timeout: float, *, keep_handlers: bool = False) -> None:
        self.phase = Phase.STOPPING
        self._crew.stop(timeout)
        self._roster.stop(timeout, keep=keep_handlers)

    def _shed(self) -> None:
        """Close the child's copies of what only the zygote uses."""
        self.link.close_copies()
        self._events.close()
        os.close(self._wake)
        os.close(self._wake_writer)


def _describe(error: BaseException) -> str:
    if isinstance(error, SystemExit):
        return f"the application called exit({error.code!r}) while it was imported"
    return (str(error) if isinstance(error, InstarError) else f"{type(error).__name__}: {error}")[:2000]


def main(text: str) -> int:
    """Run the zygote that the document describes."""
    spec = GenerationSpec.from_json(text)
    show_as(f"zygote.g{spec.generation}")
    return Zygote(spec, System()).run()
