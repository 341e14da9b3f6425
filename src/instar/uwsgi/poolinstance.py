"""An instance without application: zerg pools and routers, and nothing else."""

from __future__ import annotations

import asyncio
import os
import time
from typing import Any

from instar import __version__
from instar.config import Config
from instar.config.state import state_dir
from instar.control.assembly import open_log
from instar.errors import BusyError, ExitCode, InstarError
from instar.supervisor.handover import Options
from instar.supervisor.hooks import HookError
from instar.supervisor.logstore import LogStore
from instar.supervisor.report import Report
from instar.supervisor.statedir import StateDir
from instar.supervisor.tasks import Tasks
from instar.uwsgi.around import Around
from instar.uwsgi.controls import Controls
from instar.uwsgi.pool import Pool
from instar.uwsgi.pool_control import PoolControl

#: Of the orders, those that need workers.
_NO_WORKERS = "cannot do that: this instance has no workers, only a zerg pool or a router"


class PoolInstance:
    """Owner of the pool. The `Host` of its own orders."""

    def __init__(self, around: Around) -> None:
        self._around = around
        self._log: LogStore | None = None
        self._pool = Pool(
            around.instance, lambda text: around.log(text), notifier=around.notifier, inherited=around.inherited
        )
        self._stopped: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._tasks = Tasks(lambda text: around.log(text))
        self._busy = False
        self.began = time.time()
        self.state = "starting"

    async def serve(self) -> int:
        """Run until told to stop; returns the exit code. Raises InstarError."""
        around = self._around
        try:
            await around.begin()
            state = StateDir(state_dir(around.name))
            state.create(None, None)
            state.lock()
            self._log = open_log(Config(), state.log)
            around.log = self._log.write
            control = PoolControl(self, self._log, state.socket)
            await control.start()
            try:
                return await self._serve()
            finally:
                await control.stop()
        except HookError as error:
            raise InstarError(str(error)) from error
        finally:
            await self._tasks.cancel()
            await around.end()
            if self._log:
                self._log.close()

    async def _serve(self) -> int:
        controls = Controls(self._around, self)
        loop = asyncio.get_running_loop()
        for number, action in controls.signals().items():
            loop.add_signal_handler(number, action)
        try:
            await self._pool.start()
            controls.open()
            await self._around.run("master-start")
            self.state = "serving"
            async with self._around.herald.following(None):
                self._around.herald.ready(f"serves {self._around.name}")
                now = await self._stopped
                await self._pool.stop(grace=0.0 if now else None)
        finally:
            await controls.close()
        return ExitCode.DONE

    # --- orders -------------------------------------------------------------------------------------

    def stop(self, *, now: bool) -> None:
        """Begin to end: zerglings go on serving what they hold."""
        if not self._stopped.done():
            self.state = "stopping"
            self._around.leaving()
            self._stopped.set_result(now)

    def reload(self, options: Options) -> None:
        """Open and close what the configuration has changed; what both have is not touched."""
        self._tasks.spawn(self._say(self.begin_reload()), "reload")

    async def _say(self, report: Report) -> None:
        result = await report.wait()
        if result["error"]:
            self._around.log(result["error"])

    def begin_reload(self) -> Report:
        """The same with an answer. Raises BusyError."""
        if self._busy or self.state != "serving":
            raise BusyError("cannot reload: another reload is under way, or it is starting or stopping")
        self._busy = True
        report = Report("restart", self._store())
        self._tasks.spawn(self._reload(report), "apply")
        return report

    async def _reload(self, report: Report) -> None:
        error = None
        try:
            with report.stage("pool"):
                await self._pool.apply(await asyncio.to_thread(self._reread))
        except InstarError as problem:
            error = str(problem)
        finally:
            self._busy = False
        report.finish("failed" if error else "done", {"generation": None, "from": None, "serving": None}, error, [])

    def _reread(self) -> Any:
        instance = self._around.reread()
        if instance.config is not None:
            raise InstarError("cannot reload: there is an application now; stop this instance and start it again")
        return instance

    def recycle(self) -> None:
        """There are none."""
        raise InstarError(_NO_WORKERS)

    def toggle_accepting(self) -> None:
        """There is nothing to pause."""
        raise InstarError(_NO_WORKERS)

    def reopen_log(self, *, rotate: bool) -> None:
        """See `Host`."""
        self._store().reopen(rotate=rotate)

    def report(self) -> dict[str, Any]:
        """What `instar status` shows, in the form that it has for applications."""
        return {
            "app": self._around.name,
            "version": __version__,
            "pid": os.getpid(),
            "state": self.state,
            "uptime": round(time.time() - self.began, 3),
            "config": str(self._around.instance.source or "") or None,
            "generations": [],
            "handlers": [],
            "queues": [],
            "web": {"binds": [], "engine": None, "workers": 0, "live_generation": None},
            "services": [],
            "handover": None,
            "notes": [],
            **self._pool.status(),
        }

    def _store(self) -> LogStore:
        assert self._log is not None  # noqa: S101 - opened before anybody can ask
        return self._log
