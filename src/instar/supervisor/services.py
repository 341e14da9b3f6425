"""`[services.NAME]`: other supervised commands, which may overlap or simply restart at a handover."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from instar.config import expand_command
from instar.config.service import Service
from instar.supervisor.child import Child
from instar.supervisor.plan import Plan
from instar.supervisor.record import Process, Processes
from instar.supervisor.statedir import appending
from instar.system import System, describe_status

#: A service that ran so long was healthy: the next pause is the shortest again.
_HEALTHY_AFTER = 10.0
#: For one that no configuration names any more (seconds).
_PATIENCE = 10.0


class ServiceRunner:
    """Keeps one command running until `stop`. Owns its task and its process."""

    def __init__(
        self,
        name: str,
        service: Service,
        plan: Plan,
        output: Path,
        system: System,
        log: Callable[[str], None],
        *,
        child: Child | None = None,
        started: Callable[[Process], None] = lambda _: None,
    ) -> None:
        """`child`: it runs already. `started` is told of each process."""
        self.name = name
        self.service = service
        self.plan = plan
        self.state = "starting"
        self.restarts = 0
        self.child = child
        self._adopted = child
        self._started = started
        self._output = output
        self._system = system
        self._log = log
        self._task = asyncio.create_task(self._keep_running(), name=f"service {name}")

    async def stop(self) -> None:
        """End it: SIGTERM, after its stop_timeout SIGKILL."""
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task
        if self.child and self.child.running:
            self.state = "stopping"
            await self.child.stop(self.service.stop_timeout)
        self.state = "stopped"

    def status(self) -> dict[str, Any]:
        """For `instar status`."""
        pid = self.child.pid if self.child and self.child.running else None
        return {"name": self.name, "state": self.state, "pid": pid, "restarts": self.restarts}

    async def _keep_running(self) -> None:
        loop, pause = asyncio.get_running_loop(), self.service.backoff
        while True:
            began = loop.time()
            status = await self._run_once()
            if self.service.restart == "never" or (self.service.restart == "on-failure" and status == 0):
                self.state = "ended"
                return
            pause = self.service.backoff if loop.time() - began >= _HEALTHY_AFTER else pause
            self._log(f"service {self.name} {describe_status(status)}; it starts again in {pause:g} s")
            self.state = "waiting"
            await asyncio.sleep(pause)
            pause = min(pause * 2, self.service.backoff_limit)
            self.restarts += 1

    async def _run_once(self) -> int:
        try:
            self.child, self._adopted = self._adopted or self._start(), None
        except OSError as error:
            self._log(f"cannot start service {self.name}: {error.strerror}")
            return 127
        self.state = "running"
        return await self.child.wait()

    def _start(self) -> Child:
        argv = expand_command(tuple(self.service.command), self.plan.python)
        who = self.plan.credentials
        with appending(self._output) as fd:
            child = Child(
                self._system.spawn(
                    argv,
                    env={**self.plan.environment(), **self.service.env, "INSTAR_SERVICE": self.name},
                    cwd=str(self.service.chdir or self.plan.release),
                    output=fd,
                    rights=who,
                ),
                self._system,
            )
        self._started(Process(child.pid, self._system.start_time(child.pid), self.name))
        return child


class Services:
    """All services of the application."""

    def __init__(self, output: Path, system: System, log: Callable[[str], None], processes: Processes) -> None:
        """`processes`: where it is remembered what runs."""
        self._processes = processes
        self._output = output
        self._system = system
        self._log = log
        self._runners: dict[str, ServiceRunner] = {}

    async def adopt(self, plan: Plan) -> None:
        """Go on with the processes that a supervisor that died has left; the plan is that which served."""
        found: dict[str, Child] = {}
        for process, pidfd in self._processes.living(self._system):
            child = Child(None, self._system, pid=process.pid, pidfd=pidfd)
            # The newest of a name is the one; another was about to be ended.
            if (older := found.pop(process.name, None)) is not None:
                await older.stop(self._patience(process.name, plan))
            found[process.name] = child
        for name, child in found.items():
            service = plan.config.services.get(name)
            if service is None:
                await child.stop(self._patience(name, plan))
            else:
                self._log(f"service {name} goes on with pid {child.pid}")
                self._runners[name] = self._run(name, service, plan, child)
        for name, service in plan.config.services.items():
            if name not in self._runners:
                self._runners[name] = self._run(name, service, plan)

    def _patience(self, name: str, plan: Plan) -> float:
        service = plan.config.services.get(name)
        return service.stop_timeout if service else _PATIENCE

    async def end_leftovers(self) -> None:
        """End what a supervisor that died has left; there is no plan to go on with."""
        left = self._processes.living(self._system)
        children = [Child(None, self._system, pid=process.pid, pidfd=pidfd) for process, pidfd in left]
        await asyncio.gather(*(child.stop(_PATIENCE) for child in children))
        self._processes.clear()

    async def follow(self, plan: Plan) -> None:
        """Make the running services those of a plan that has just begun to serve."""
        wanted = plan.config.services
        for name in [name for name in self._runners if name not in wanted]:
            await self._runners.pop(name).stop()
        for name, service in wanted.items():
            runner = self._runners.get(name)
            if runner is None:
                self._runners[name] = self._run(name, service, plan)
            elif service.handover == "overlap":
                self._runners[name] = self._run(name, service, plan)
                await runner.stop()
            elif service.handover == "restart":
                await runner.stop()
                self._runners[name] = self._run(name, service, plan)

    def _run(self, name: str, service: Service, plan: Plan, child: Child | None = None) -> ServiceRunner:
        return ServiceRunner(
            name,
            service,
            plan,
            self._output / f"{name}.out",
            self._system,
            self._log,
            child=child,
            started=self._processes.add,
        )

    async def stop(self) -> None:
        """End all of them."""
        await asyncio.gather(*(runner.stop() for runner in self._runners.values()))
        self._runners.clear()
        self._processes.clear()

    def status(self) -> list[dict[str, Any]]:
        """For `instar status`."""
        return [runner.status() for runner in self._runners.values()]
