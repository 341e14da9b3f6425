"""Faults and restarts by a seed; each must lead back to one complete generation and held names."""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import os
import random
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from harness.control import Handover
from harness.handlers import act, misbehave, rows
from harness.instance import Instance
from harness.processes import alive
from harness.waiting import wait_for

from chaos.flow import JOB_HANDLERS
from chaos.killing import Killed, kill

NAMES = ("test.warm.1", "test.warm.2", *JOB_HANDLERS)
#: Where a restart may be interrupted: what was last heard of it.
MOMENTS = (
    ("boot", "started"), ("boot", "done"), ("probe", "done"), ("cut-over", "done"), ("handlers", "done"),
    ("grace", "done"), ("drain", "started"),
)  # fmt: skip
#: Seconds for which a process is stopped.
STOPPED = 0.7
#: The state that follows a fault, at the latest.
CALM = 60.0
BAD = ("import-error", "missing-target", "lifespan-error", "health-500", "worker-error", "worker-exit")
ENDS = ("done", "rolled-back")


@dataclasses.dataclass
class Step:
    """What was done, for the report."""

    what: str
    seconds: float


class Season:
    """Everything that happens to one instance, in the order of a seed."""

    def __init__(self, instance: Instance, seed: int) -> None:
        self.instance = instance
        self.chance = random.Random(seed)
        self.killed: list[Killed] = []
        self.steps: list[Step] = []
        self.disk = Disk(instance.state_dir)
        self.victims: dict[str, Callable[[], int]] = {
            "supervisor": lambda: self.instance.pid,
            "zygote": lambda: self.instance.live()["pid"] or 0,
            "worker": lambda: self.chance.choice(self.instance.workers() or [0]),
            "handler": lambda: rows(self.instance)[self.chance.choice(NAMES)]["pid"] or 0,
            "newcomer": self._newcomer,
        }
        self.faults: dict[str, Callable[[], None]] = {
            **{f"KILL {name}": (lambda name=name: self.kill(name)) for name in self.victims if name != "newcomer"},
            **{f"STOP {name}": (lambda name=name: self.stop(name)) for name in self.victims if name != "newcomer"},
            **{f"restart, KILL {name}": (lambda name=name: self.interrupted(self.kill, name)) for name in self.victims},
            **{f"restart, STOP {name}": (lambda name=name: self.interrupted(self.stop, name)) for name in self.victims},
            "TERM handler": self.end_handler,
            "KILL worker and handler": lambda: self._both("worker", "handler"),
            "bad release": self.bad_release,
            "bad handlers": self.bad_handlers,
            "two restarts": self.two_restarts,
        }
        if self.disk.can_break:
            self.faults["disk full"] = lambda: self._on_disk(self.disk.full())
            self.faults["disk read-only"] = lambda: self._on_disk(self.disk.read_only())
        self.restarts: dict[str, Callable[[], None]] = {
            "restart": self.restart,
            "renew": self.renew,
            "upgrade": self.upgrade,
        }

    def count(self, *names: str) -> int:
        """How many steps of these kinds were done."""
        return sum(step.what in names for step in self.steps)

    def run(self, what: str) -> None:
        """Do one thing, and wait until all is well."""
        began = time.monotonic()
        try:
            {**self.faults, **self.restarts}[what]()
            self.calm()
        except (AssertionError, OSError) as error:
            done = collections.Counter(step.what for step in self.steps)
            raise AssertionError(
                f"step {len(self.steps) + 1}, {what}, after {time.monotonic() - began:.2f} s: "
                f"{type(error).__name__} {error}\nbefore: {[step.what for step in self.steps[-3:]]} {dict(done)}"
            ) from error
        self.steps.append(Step(what, time.monotonic() - began))

    # --- the right state ---

    def calm(self) -> None:
        """One generation, complete; every name has a holder that lives; nothing is under way."""
        problem: Any = ""

        def check() -> bool:
            nonlocal problem
            problem = self._problem()
            return not problem

        try:
            wait_for("calm", check, CALM)
        except AssertionError as error:
            raise AssertionError(f"{error}; {problem}") from None

    def _problem(self) -> Any:
        status = self.instance.status()
        living = [item for item in status["generations"] if item["state"] not in ("stopped", "failed")]
        if status["state"] != "serving" or status["handover"] or len(living) != 1:
            return status["state"], status["handover"], [(item["number"], item["state"]) for item in living]
        workers = [row for row in living[0]["workers"] if row["state"] == "ready" and alive(row["pid"])]
        wanted = self.instance.project.config["web"]["workers"]
        if len(workers) != wanted or not alive(living[0]["pid"] or 0):
            return living[0]
        held = [row for row in status["handlers"] if row["state"] == "active" and alive(row["pid"] or 0)]
        return [] if {row["name"] for row in held} == set(NAMES) else status["handlers"]

    # --- faults ---

    def _newcomer(self) -> int:
        """A process of the newest generation: its zygote, or one of its workers."""
        newest = max(self.instance.status()["generations"], key=lambda item: int(item["number"]))
        pids = [newest["pid"], *(worker["pid"] for worker in newest["workers"])]
        return self.chance.choice([pid for pid in pids if pid] or [0])

    def kill(self, victim: str) -> None:
        """SIGKILL; a supervisor is started again."""
        pid = self.victims[victim]()
        if not pid:
            return
        if victim == "supervisor":
            self.instance.kill_supervisor()
            self.instance.start()
        else:
            self.killed.append(kill(pid, victim))

    def stop(self, victim: str) -> None:
        """SIGSTOP, and SIGCONT some time later: time passing is the point here."""
        pid = self.victims[victim]()
        if not pid:
            return
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGSTOP)
            time.sleep(STOPPED)
            os.kill(pid, signal.SIGCONT)

    def end_handler(self) -> None:
        """It may leave when it likes, and is followed by another."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.victims["handler"](), signal.SIGTERM)

    def _both(self, first: str, second: str) -> None:
        self.kill(first)
        self.kill(second)

    def interrupted(self, do: Callable[[str], None], victim: str) -> None:
        """A restart, something at a certain moment of it, and one of its two ends."""
        moment = self.chance.choice(MOMENTS)
        handover = self.instance.handover()
        with contextlib.suppress(AssertionError):
            # Its end is an event, too.
            handover.wait_stage(*moment)
        time.sleep(self.chance.random() * 0.05)
        do(victim)
        if victim != "supervisor" or do == self.stop:
            assert handover.result().get("outcome") in ENDS, handover.story()

    def bad_release(self) -> None:
        """It answers nobody."""
        self.instance.project.deploy("bad", self.chance.choice(BAD), index=2)
        result = self.instance.handover().result()
        self.instance.project.deploy("good")
        assert result.get("outcome") == "rolled-back", result

    def bad_handlers(self) -> None:
        """Names return to the release before."""
        misbehave(self.instance.project, self.chance.choice(("boot", "takeover")), pool="warm")
        result = self.instance.handover().result()
        self.instance.project.deploy("good")
        assert result.get("outcome") == "rolled-back", result

    def two_restarts(self) -> None:
        """One is done; the other is refused, or done after it."""
        pair = [Handover(self.instance.control) for _ in range(2)]
        results = [handover.result() for handover in pair]
        assert "done" in [result.get("outcome") for result in results], results
        assert all(result.get("outcome") == "done" or "error" in result for result in results), results

    def _on_disk(self, trouble: contextlib.AbstractContextManager[None]) -> None:
        """A restart that can't write goes well, is taken back or is refused; service goes on."""
        with trouble:
            result = self.instance.handover().result()
            assert result.get("outcome") in ENDS or "error" in result, result
            self.instance.status()

    # --- restarts ---

    def restart(self) -> None:
        """Must go well."""
        result = self.instance.handover().result()
        assert result.get("outcome") == "done", result

    def upgrade(self) -> None:
        """Into the same version: everything is handed over all the same."""
        pid = self.instance.pid
        said = self.instance.command("upgrade")
        assert said.code == 0 and self.instance.status()["pid"] == pid, said

    def renew(self) -> None:
        """A fresh process for one name."""
        result = act(self.instance, self.chance.choice(NAMES), "restart")
        assert result.get("outcome") == "done", result


class Disk:
    """The state directory on a file system of its own, where root may mount one."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(mode=0o700, exist_ok=True)
        self.can_break = os.geteuid() == 0 and self._mount("-t", "tmpfs", "-o", "size=64m,mode=0700", "instar-chaos")

    def _mount(self, *arguments: str) -> bool:
        return not subprocess.run(["mount", *arguments, str(self._folder)], capture_output=True).returncode

    @contextlib.contextmanager
    def full(self) -> Iterator[None]:
        """Not a byte can be written (ENOSPC)."""
        ballast = self._folder / "ballast"
        with contextlib.suppress(OSError), ballast.open("wb", buffering=0) as file:
            for size in (1 << 20, 1):
                with contextlib.suppress(OSError):
                    while True:
                        file.write(bytes(size))
        try:
            yield
        finally:
            ballast.unlink()

    @contextlib.contextmanager
    def read_only(self) -> Iterator[None]:
        """Nothing can be opened for writing (EROFS); what is open stays so, as the kernel wants it."""
        assert self._mount("--bind", str(self._folder))
        try:
            assert self._mount("-o", "remount,bind,ro")
            yield
        finally:
            self._unmount()

    def _unmount(self) -> None:
        # Lazily: somebody may have opened something below it meanwhile.
        subprocess.run(["umount", "--lazy", str(self._folder)], check=True)

    def close(self) -> None:
        """Give the folder back."""
        if self.can_break:
            self._unmount()
