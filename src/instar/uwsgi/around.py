"""What every kind of instance has around it: Emperor, notifications, hooks, signals, pidfiles."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

from instar.control.herald import Herald
from instar.errors import InstarError
from instar.listeners.systemd import Inherited, take_inherited
from instar.supervisor.plan import Credentials
from instar.system import System
from instar.uwsgi import hooks
from instar.uwsgi.emperor.link import News
from instar.uwsgi.fifo import MasterFifo
from instar.uwsgi.hooks import HookWorld
from instar.uwsgi.letters import Order
from instar.uwsgi.model import Instance, Phase
from instar.uwsgi.unchanged import left_as_they_were, sentence
from instar.uwsgi.vassal import EmperorLink

#: Phases before anything is started, in uWSGI's order.
_BEFORE: tuple[Phase, ...] = ("asap", "pre-jail", "post-jail", "in-jail", "as-root", "as-user")


class Around:
    """Owner of what an instance inherits from whoever starts it. `instance` is the latest that was read."""

    def __init__(self, name: str, instance: Instance, reread: Callable[[], Instance], link: EmperorLink) -> None:
        """`name`: of the state directory. `reread` reads the configuration again. Raises ConfigError for hooks that
        can't run."""
        hooks.check(instance.hooks)
        self.name = name
        self.instance = self._began = instance
        self.link = link
        self.system = System()
        self.herald = Herald.from_environment()
        self.notifier = self.herald.notifier
        self.inherited: list[Inherited] = take_inherited()
        self.log: Callable[[str], object] = _to_stderr
        config = instance.config
        self.user = Credentials.of(config) if config else Credentials()
        self.world = HookWorld(
            log=lambda text: self.log(text),
            system=self.system,
            cwd=Path.cwd(),
            env={**os.environ, **(config.app.env if config else {})},
            user=self.user,
        )
        self._reread = reread

    def reread(self) -> Instance:
        """The instance as its files say now; it becomes the latest. Raises InstarError."""
        instance = self._reread()
        hooks.check(instance.hooks)
        self.instance = instance
        if note := self.note():
            self.log(note)
        return instance

    def note(self) -> str:
        """What the files say by now that only the next start takes up; empty if nothing."""
        names = left_as_they_were(self._began, self.instance)
        return sentence(names) if names else ""

    def needs_start(self) -> bool:
        """Whether the files, as they are now, say what only a start takes up."""
        try:
            return bool(left_as_they_were(self._began, self._reread()))
        except InstarError:
            # A start would not work, either.
            return False

    async def begin(self) -> None:
        """Run the hooks of the phases before everything, in the folder of the start. Raises HookError."""
        await self.run(*_BEFORE)
        if self.instance.config:
            self.world.cwd = self.instance.config.app.chdir

    async def run(self, *phases: Phase) -> None:
        """Run the hooks of some phases. Raises HookError."""
        for phase in phases:
            await hooks.run(phase, self.instance.hooks, self.world)

    def fifo(self, act: Callable[[str], object]) -> MasterFifo:
        """The master FIFO, not open yet; it belongs to the application's user, as under uWSGI."""
        owner = None if self.user.uid is None else (self.user.uid, -1 if self.user.gid is None else self.user.gid)
        fifo = MasterFifo(self.instance.fifos, act, lambda text: self.log(text), owner=owner)
        self.world.fifo = fifo
        return fifo

    def signals(self) -> dict[int, Order]:
        """What each signal does (uWSGI core/master.c), with the changes that `unix_signal` hooks make."""
        on_term, on_quit = Order.RELOAD_NOW, Order.STOP_NOW
        if self.instance.die_on_term:
            on_term, on_quit = on_quit, on_term
        return {
            signal.SIGHUP: Order.RELOAD,
            signal.SIGINT: Order.STOP_NOW,
            signal.SIGTERM: on_term,
            signal.SIGQUIT: on_quit,
            signal.SIGTSTP: Order.PAUSE,
            signal.SIGUSR1: Order.STATS,
            **hooks.signals(self.instance.hooks),
        }

    def write_pidfiles(self) -> None:
        """Write our pid. Raises InstarError."""
        for path in self.instance.pidfiles:
            try:
                path.write_text(f"{os.getpid()}\n")
            except OSError as error:
                raise InstarError(f"cannot write the pidfile {path}: {error.strerror}; change it") from error

    def speak_up(self) -> None:
        """There is no log, not yet or not any more: all is said on standard error."""
        self.log, self.world.output = _to_stderr, None

    def leaving(self) -> None:
        """The end begins."""
        self.link.say(News.STOPPING)
        self.herald.stopping()

    async def end(self) -> None:
        """The last acts of the instance."""
        await self.run("as-user-atexit")
        remove_own(self.instance.pidfiles)
        self.link.close()


def remove_own(pidfiles: Iterable[Path]) -> None:
    """Remove pidfiles that say our pid; another instance may have written its own meanwhile."""
    for path in pidfiles:
        with contextlib.suppress(OSError):
            if path.read_text().strip() == str(os.getpid()):
                path.unlink()


def _to_stderr(text: str) -> None:
    print(f"instar: {text}", file=sys.stderr, flush=True)
