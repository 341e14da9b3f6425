"""The Emperor: looks at its directory, and gives each vassal its orders."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Callable
from typing import Any

from instar.errors import BusyError, ConfigError, ExitCode
from instar.supervisor.changes import Changes
from instar.supervisor.logstore import LogStore
from instar.supervisor.report import Report
from instar.supervisor.statedir import StateDir
from instar.supervisor.tasks import Tasks
from instar.system import System
from instar.system.notify import Notice, Notifier
from instar.uwsgi.emperor.fdstore import FdStore
from instar.uwsgi.emperor.inheritance import Inheritance
from instar.uwsgi.emperor.notices import Notices
from instar.uwsgi.emperor.renewal import Renewals
from instar.uwsgi.emperor.roll import Roll
from instar.uwsgi.emperor.safe import Safe
from instar.uwsgi.emperor.scan import Found, scan
from instar.uwsgi.emperor.settings import EmperorSettings
from instar.uwsgi.emperor.statedir import output_folder
from instar.uwsgi.emperor.surroundings import Surroundings
from instar.uwsgi.emperor.vassal import Vassal
from instar.uwsgi.emperor.vassal_file import VassalFile, understand

#: An editor that replaces a file takes it away for a moment (seconds).
_SECOND_LOOK = 0.2
#: Lines that explain a failure.
_LAST_WORDS = 20


class Emperor:
    """Owner of the vassals. Everything runs in one event loop."""

    def __init__(
        self,
        settings: EmperorSettings,
        state: StateDir,
        system: System,
        log: LogStore,
        *,
        collect: Callable[[], None],
        wrapper_is_uwsgi: bool,
        notifier: Notifier | None = None,
    ) -> None:
        """`collect`: take in what the vassals have written so far. `notifier`: the service manager. Raises OSError."""
        self._notifier = notifier
        self._told = ""
        self._collect = collect
        self.settings = settings
        self.state = state
        self.vassals: dict[str, Vassal] = {}
        #: Their files are gone, and they are on their way out.
        self._leaving: dict[str, Vassal] = {}
        self.log = log
        self.pid = os.getpid()
        self._system = system
        self.started = system.time()
        self.stopping = False
        #: How often the directory was looked at.
        self.scans = 0
        self.changes = Changes()
        self._roll = Roll(state.control / "vassals.json", system)
        self._safe = Safe(state.control / "keeper.sock", output_folder(state) / "keeper.out", system, log.write)
        self.store = FdStore(
            lambda stored: self._safe.put(stored.key, stored.fd), lambda stored: self._safe.take(stored.key)
        )
        self._renewals = Renewals(lambda: Report("restart", log), self._last_words)
        self._tasks = Tasks(log.write)
        self._notices = Notices(state.control / "notify.sock", self._notified)
        self._around = Surroundings(
            settings,
            state.root,
            output_folder(state),
            system,
            self.changes,
            self._tasks,
            self.store,
            self._roll,
            self._safe,
            log.write,
            str(self._notices.path),
            self._notices.catch_up,
        )
        self._wrapper_is_uwsgi = wrapper_is_uwsgi
        self._now = False
        self._inheritance: Inheritance | None = None
        self._wake = asyncio.Event()

    @property
    def now(self) -> float:
        """Its clock (monotonic seconds)."""
        return self._system.monotonic()

    @property
    def uptime(self) -> float:
        """Seconds since its start."""
        return self._system.time() - self.started

    async def serve(self) -> int:
        """Run the vassals until told to stop; returns the exit code."""
        self._handle_signals()
        self._inheritance = Inheritance(self._roll, self._safe, self._system, self.changes)
        self._inheritance.restore(self.store)
        while not self.stopping:
            if await self._scan():
                await self._settle_inheritance()
                self._tell_manager()
            for vassal in self.vassals.values():
                vassal.check_heartbeat()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), self.settings.freq)
            self._wake.clear()
        await self._shut_down()
        return ExitCode.DONE

    def _tell_manager(self) -> None:
        """Ready as soon as every vassal has been looked at: one that fails must not hold the others up."""
        running = sum(vassal.running for vassal in self.vassals.values())
        text = f"{running} of {len(self.vassals)} vassals run"
        if self._notifier is not None and text != self._told:
            self._told = text
            self._notifier.ready(text)

    def stop(self, *, now: bool = False) -> None:
        """Begin to stop; a second call kills what is left."""
        if self.stopping:
            for vassal in (*self.vassals.values(), *self._leaving.values()):
                vassal.kill()
        self.stopping = True
        self._now = now
        self._wake.set()

    def rescan(self) -> None:
        """Look at the directory now."""
        self._wake.set()

    # --- orders ---------------------------------------------------------------------------------------

    def find(self, name: str) -> Vassal:
        """A vassal by the name of its file, with or without the ending. Raises ConfigError."""
        if name in self.vassals:
            return self.vassals[name]
        found = [vassal for key, vassal in self.vassals.items() if key.rpartition(".")[0] == name]
        if len(found) == 1:
            return found[0]
        have = ", ".join(self.vassals) or "none"
        why = "several files have that name; add the ending" if found else f"there is none of that name; it has {have}"
        raise ConfigError(f"cannot find vassal {name} in {self.settings.directory}: {why}")

    def restart(self, name: str, body: dict[str, Any]) -> Report:
        """Renew a vassal, or start one that doesn't run. Raises ConfigError, BusyError."""
        vassal = self.find(name)
        if vassal.renewing:
            raise BusyError(f"cannot restart {vassal.name}: a restart is under way; wait for its end")
        with contextlib.suppress(OSError):
            if found := scan(self.settings).get(vassal.name):
                # A file that was written just before is not a second reason to restart.
                vassal.file = self._understand(found)
        return self._renewals.begin(vassal, body)

    async def stop_vassal(self, name: str, *, now: bool) -> Vassal:
        """End a vassal until it is restarted, or its file touched. Raises ConfigError."""
        vassal = self.find(name)
        self.log.write(f"vassal {vassal.name} stops by command")
        await vassal.stop(graceful=not now)
        self.store.discard(vassal.name)
        return vassal

    def _last_words(self, vassal: str, since: float) -> list[str]:
        self._collect()
        for role in (f"vassal.{vassal}.restarter", f"vassal.{vassal}"):
            records = self.log.tail(_LAST_WORDS, role=role)
            if words := [record.text for record in records if record.time >= since]:
                return words
        return []

    def _renew(self, vassal: Vassal) -> None:
        self._renewals.begin(vassal, {})

    # --- the directory ------------------------------------------------------------------------------

    async def _scan(self) -> bool:
        """Act on what has changed; False when the directory can't be read."""
        try:
            found = scan(self.settings)
            if any(name not in found for name in self.vassals):
                await asyncio.sleep(_SECOND_LOOK)
                found = scan(self.settings)
        except OSError as error:
            # Nothing is stopped because a file system is away for a moment.
            self.log.write(f"cannot read {self.settings.directory}: {error.strerror}; the vassals run on")
            return False
        for name in [name for name in self.vassals if name not in found]:
            self._remove(name)
        for item in found.values():
            self._take(item)
        self.scans += 1
        return True

    def _take(self, found: Found) -> None:
        if found.name in self._leaving:
            return  # a file that came back: later, for two of a name must not run side by side
        vassal = self.vassals.get(found.name)
        if vassal is not None and vassal.file.found.stamp == found.stamp:
            return
        file = self._understand(found)
        if vassal is None:
            self._add(Vassal(file, self._around, blocker=self._blocker, renew=self._renew))
        else:
            self.log.write(f"vassal {found.name} was touched")
            vassal.touched(file)

    def _understand(self, found: Found) -> VassalFile:
        return understand(found, self.settings, wrapper_is_uwsgi=self._wrapper_is_uwsgi)

    def _add(self, vassal: Vassal) -> None:
        self.vassals[vassal.name] = vassal
        inherited = self._inheritance
        main = inherited.claim(vassal.name) if inherited else None
        standin = inherited.claim(vassal.name, standin=True) if inherited else None
        if main is None and standin is None:
            vassal.begin()
            return
        vassal.adopt(main[0] if main else None, standin[0] if standin else None)
        if main is not None and main[1].stamp != vassal.file.found.stamp:
            self.log.write(f"vassal {vassal.name} was touched while no Emperor ran")
            self._renew(vassal)

    async def _settle_inheritance(self) -> None:
        """What an earlier Emperor ran, and isn't wanted any more."""
        inherited = self._inheritance
        if inherited is None:
            return
        for name in inherited.vassals():
            self.log.write(f"vassal {name} was removed while no Emperor ran; it stops")
            await inherited.end(name, graceful=self.settings.graceful_shutdown, mercy=self.settings.curse_tolerance)
        for name in self.store.vassals():
            if name not in self.vassals:
                self.store.discard(name)
        inherited.close()
        self._inheritance = None

    def _remove(self, name: str) -> None:
        self._leaving[name] = vassal = self.vassals.pop(name)
        self.log.write(f"vassal {name} was removed; it stops")
        self._tasks.spawn(self._end(vassal), f"stop {name}")

    async def _end(self, vassal: Vassal) -> None:
        await vassal.stop()
        self.store.discard(vassal.name)
        del self._leaving[vassal.name]
        self.changes.notify()
        self.rescan()

    def _notified(self, notice: Notice) -> None:
        vassals = (*self.vassals.values(), *self._leaving.values())
        processes = ((vassal, vassal.process) for vassal in vassals if vassal.process is not None)
        found = next(((vassal, process) for vassal, process in processes if process.pid == notice.pid), None)
        fields, taken = notice.fields, False
        if found is not None:
            vassal, process = found
            if fields.get("FDSTOREREMOVE") == "1":
                self.store.remove(vassal.name, fields.get("FDNAME", ""))
            elif fields.get("FDSTORE") == "1":
                self.store.add(vassal.name, fields.get("FDNAME", ""), notice.fds)
                taken = True
            process.notified(fields)
        if not taken:
            # A barrier is answered by that.
            notice.close()

    def _blocker(self, file: VassalFile) -> str:
        """The pool that a vassal needs and that isn't ready, if it is one of ours."""
        for vassal in self.vassals.values():
            if not vassal.ready and set(vassal.file.pools) & set(file.zerg):
                return f"{vassal.name} isn't ready"
        return ""

    # --- signals and the end ------------------------------------------------------------------------

    def _handle_signals(self) -> None:
        loop = asyncio.get_running_loop()
        for sig in (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT):
            loop.add_signal_handler(sig, self.stop)
        loop.add_signal_handler(signal.SIGHUP, self._reload_all)
        loop.add_signal_handler(signal.SIGURG, self._forgive_all)
        loop.add_signal_handler(signal.SIGWINCH, self.rescan)

    def _reload_all(self) -> None:
        for vassal in self.vassals.values():
            if vassal.running and not vassal.renewing:
                self._renew(vassal)

    def _forgive_all(self) -> None:
        for vassal in self.vassals.values():
            vassal.throttle.forget()
        self.changes.notify()

    async def _shut_down(self) -> None:
        """Zerglings before their pools: clients wait in the pool's queue to the last."""
        self.log.write("the Emperor stops its vassals")
        if self._notifier is not None:
            self._notifier.stopping()
        graceful = False if self._now else None
        pools = [vassal for vassal in self.vassals.values() if vassal.file.pools]
        others = [vassal for vassal in self.vassals.values() if not vassal.file.pools]
        for group in (others, pools):
            stops = [vassal.stop(graceful=graceful, mercy=self.settings.mercy) for vassal in group]
            await asyncio.gather(*stops)
        await self.changes.until(lambda: not self._leaving)
        await self._tasks.cancel()
        self._notices.close()
        self.store.close()
        self._safe.close()
