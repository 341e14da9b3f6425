"""The recipe of a zerg dance with mules: its own files, in a temporary folder, around the test application."""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import uuid
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from harness.control import Control, Handover
from harness.processes import MARK, alive, kill_all, marked
from harness.project import TESTS, free_port
from harness.waiting import wait_for
from instar.uwsgi import dance

INSTAR_UWSGI = Path(sys.executable).with_name("instar-uwsgi")

_POOL = """\
uwsgi:
  master: true
  http: 127.0.0.1:{http}
  http-to: 127.0.0.1:{uwsgi}
  zerg-pool: {root}/var/zerg/pool.sock:127.0.0.1:{uwsgi}
"""

_ZERGLING = """\
uwsgi:
  master-fifo: {root}/var/zerg/zergling-new.fifo
  master-fifo: {root}/var/zerg/zergling-running.fifo
  master-fifo: {root}/var/zerg/zergling-old.fifo
  zerg: {root}/var/zerg/pool.sock
  if-exists: {root}/var/zerg/zergling-running.fifo
  hook-accepting1-once: writefifo:{root}/var/zerg/zergling-running.fifo 2q
  endif: null
  hook-accepting1-once: spinningfifo:{root}/var/zerg/zergling-new.fifo 1
  chdir: {root}/server
"""

_APPLICATION = """\
  socket: 127.0.0.1:0
  buffer-size: 16384
  processes: 2
  threads: 4
  offload-threads: 2
  static-map: /static/style=static/style/blue
  static-map: /static=static
  master: true
  pythonpath: lib
  pythonpath: {tests}
  env: TEST_GATES={gates}
  env: TEST_BEATS={beats}
  module: web.buildapp:uwsgi_app()
  thunder-lock: true
  disable-logging: true
  die-on-term: true
  hook-master-start: unix_signal:2 gracefully_kill_them_all
  hook-master-start: unix_signal:15 gracefully_kill_them_all
  enable-threads: true
"""

_MULES = """\
  mule: lib/web/main.py
  mule: lib/web/main.py
  farm: job-handlers:1,2
"""

_GALAXY = """\
galaxy:
  job_config_file: {root}/config/job_conf.xml
  # other settings
"""

_BUILD = """\
import time

from apps import wsgi

time.sleep({boot})


def uwsgi_app():
    return wsgi.app
"""

#: A mule that says every few milliseconds that it works, and under which number.
_MULE = """\
import os
import time

import uwsgi

assert uwsgi.in_farm("job-handlers")
beats = os.open(os.environ["TEST_BEATS"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
while True:
    os.write(beats, f"{uwsgi.mule_id()} {os.getpid()} {time.monotonic():.6f}\\n".encode())
    time.sleep(0.002)
"""

NAMES = ("main.job-handlers.1", "main.job-handlers.2")


@dataclasses.dataclass(frozen=True)
class Tenure:
    """The time that one process worked as a mule."""

    pid: int
    first: float
    last: float


class Member:
    """One instance of the recipe."""

    def __init__(self, recipe: Recipe, file: Path, program: list[str]) -> None:
        self.name = file.stem
        self.output = recipe.root / f"{file.stem}.out"
        self.state_dir = recipe.root / "state" / file.stem
        with self.output.open("ab") as output:
            self.process = subprocess.Popen(
                [*program, "--yaml", str(file)],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=recipe.environment | {"INSTAR_STATE_DIR": str(self.state_dir)},
                cwd=file.parent,
            )

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def alive(self) -> bool:
        return self.process.poll() is None

    def said(self) -> str:
        return self.output.read_text(errors="replace")

    def state(self, suffix: str = "") -> Path:
        return self.state_dir.with_name(self.state_dir.name + suffix)

    def status(self, suffix: str = "") -> dict[str, Any]:
        return Control(self.state(suffix)).get("/v1/status")

    def serving(self, suffix: str = "") -> bool:
        """Whether it says that it serves; fails when it has ended."""
        assert self.alive, f"{self.name} ended with {self.process.returncode}:\n{self.said()[-6000:]}"
        with contextlib.suppress(OSError, AssertionError):
            status = self.status(suffix)
            return bool(status["state"] == "serving" and status["pid"] == self.pid)
        return False

    def handlers(self, suffix: str = "") -> dict[str, str]:
        return {row["name"]: row["state"] for row in self.status(suffix)["handlers"]}

    def handover(self, suffix: str = "") -> Handover:
        return Handover(Control(self.state(suffix)))

    def ended(self, limit: float = 90.0) -> int:
        """Wait for its end; the exit code."""
        wait_for(f"{self.name} (pid {self.pid}) ends", lambda: not self.alive, limit)
        return int(self.process.returncode)


class Emperor(Member):
    """The Emperor of the recipe's vassals; asked for its status, it answers as its zergling does."""

    def __init__(self, recipe: Recipe) -> None:
        self.name = "emperor"
        self.output = recipe.root / "emperor.out"
        self.state_dir = recipe.root / "state" / recipe.zergling.stem
        argv = [str(INSTAR_UWSGI), "--emperor", str(recipe.zergling.parent), "--emperor-wrapper", str(INSTAR_UWSGI)]
        with self.output.open("ab") as output:
            self.process = subprocess.Popen(
                [*argv, "--emperor-freq", "1"],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=recipe.environment | {"INSTAR_STATE_DIR": str(recipe.root / "state")},
                cwd=recipe.root,
            )

    def log(self) -> str:
        """What its vassals said."""
        files = self.state_dir.parent.glob(".emperors/*/app/output/vassals/*.out")
        stored = self.state_dir.parent.glob(".emperors/*/control/log/*")
        return "".join(path.read_text(errors="replace") for path in (*files, *stored))

    def serving(self, suffix: str = "") -> bool:
        assert self.alive, f"the Emperor ended with {self.process.returncode}:\n{self.said()[-6000:]}"
        with contextlib.suppress(OSError, AssertionError):
            return bool(self.status(suffix)["state"] == "serving")
        return False


class Recipe:
    """The folder. `clean_up` ends every process, whatever happened."""

    def __init__(self, root: Path, *, boot: float = 0.3) -> None:
        self.root = root
        self.http, self.uwsgi = free_port(), free_port()
        self.gates, self.beats = root / "gates", root / "beats"
        self.running = root / "var/zerg/zergling-running.fifo"
        self.members: list[Member] = []
        self._mark = uuid.uuid4().hex
        self._values = {
            "root": root,
            "http": self.http,
            "uwsgi": self.uwsgi,
            "tests": TESTS,
            "gates": self.gates,
            "beats": self.beats,
        }
        for folder in ("vassals", "config", "server/lib/web", "server/static/style/blue", "var/zerg", "gates", "state"):
            (root / folder).mkdir(parents=True)
        (root / "server/lib/web/buildapp.py").write_text(_BUILD.format(boot=boot))
        (root / "server/lib/web/main.py").write_text(_MULE)
        self.pool = self._file("vassals/vassal-zergpool.yml", _POOL)
        self.zergling = self._file("vassals/vassal-zergling.yml", _ZERGLING + "  yaml: {root}/config/galaxy.yml\n")
        self._file("config/galaxy.yml", "uwsgi:\n" + _APPLICATION + _MULES + _GALAXY)
        self.restarter = self._file("config/galaxy-restarter.yml", _ZERGLING + _APPLICATION + _GALAXY)

    def _file(self, name: str, text: str) -> Path:
        path = self.root / name
        path.write_text(text.format(**self._values))
        return path

    def restarter_with_mules(self) -> Path:
        """What the recipe can't have on uWSGI: a single dance, with mules on both sides."""
        return self._file("config/single.yml", _ZERGLING + _APPLICATION + _MULES + _GALAXY)

    @property
    def environment(self) -> dict[str, str]:
        inherited = {key: value for key, value in os.environ.items() if not key.startswith(("PYTEST", "COV", "UWSGI"))}
        return {**inherited, MARK: self._mark, "NO_COLOR": "1"}

    # --- members ---

    def start(self, file: Path, program: list[str] | None = None) -> Member:
        member = Member(self, file, program or [str(INSTAR_UWSGI)])
        self.members.append(member)
        return member

    def up(self, file: Path, limit: float = 90.0) -> Member:
        """Start, and wait until it serves."""
        member = self.start(file)
        wait_for(f"{member.name} serves", member.serving, limit)
        return member

    def emperor(self) -> Emperor:
        """The command line of the recipe, with instar in uWSGI's place."""
        emperor = Emperor(self)
        self.members.append(emperor)
        wait_for("the vassals serve", emperor.serving, 90)
        return emperor

    def up_beside(self, file: Path, ordinal: int = 2) -> tuple[Member, str]:
        """Start one of a name that runs already; it has a state directory beside the other's."""
        member, suffix = self.start(file), f".{ordinal}"
        wait_for(f"{member.name}{suffix} serves", lambda: member.serving(suffix), 90)
        return member, suffix

    def clean_up(self) -> None:
        for member in self.members:
            if member.alive:
                # SIGTERM reloads those without die-on-term.
                member.process.send_signal(signal.SIGINT)
        for member in self.members:
            with contextlib.suppress(subprocess.TimeoutExpired):
                member.process.wait(3)
        kill_all(self._mark)
        for member in self.members:
            member.process.wait(5)
        forget_locks(self.root / "var/zerg/pool.sock")

    def evidence(self) -> str:
        files = [*self.root.glob("*.out"), *self.root.glob("state/**/*.out")]
        return "\n".join(
            f"--- {path.relative_to(self.root)} ---\n{path.read_text(errors='replace')[-6000:]}" for path in files
        )

    def processes_of(self, folder: Path) -> list[int]:
        """Pids of processes of ours that write their output below a folder."""
        found = []
        for process in marked(self._mark):
            with contextlib.suppress(OSError):
                if Path(f"/proc/{process.pid}/fd/1").readlink().is_relative_to(folder):
                    found.append(process.pid)
        return found

    # --- mules ---

    def tenures(self) -> dict[int, list[Tenure]]:
        """By mule number, who worked when, in order."""
        found: dict[tuple[int, int], list[float]] = collections.defaultdict(list)
        for line in self.beats.read_text().splitlines():
            number, pid, moment = line.split()
            found[int(number), int(pid)].append(float(moment))
        result: dict[int, list[Tenure]] = collections.defaultdict(list)
        for (number, pid), moments in found.items():
            result[number].append(Tenure(pid, min(moments), max(moments)))
        return {number: sorted(tenures, key=lambda item: item.first) for number, tenures in result.items()}

    def gaps(self) -> dict[int, list[float]]:
        """By mule number, the times from the last sign of one to the first of the next; fails when they overlap."""
        result = {}
        for number, tenures in self.tenures().items():
            result[number] = [after.first - before.last for before, after in itertools.pairwise(tenures)]
            assert all(gap > 0 for gap in result[number]), f"mule {number} was there twice: {tenures}"
        return result

    def mules(self) -> list[int]:
        """Pids of mules that live."""
        if not self.beats.exists():
            return []
        return [tenure.pid for tenures in self.tenures().values() for tenure in tenures if alive(tenure.pid)]


def forget_locks(path: Path) -> None:
    """Remove what zerglings of a pool, or instances of a FIFO, share outside the test's folder."""
    shared: Any = SimpleNamespace(zerg=(path,), server_name="main")
    if folder := dance.folder_of(shared):
        shutil.rmtree(folder, ignore_errors=True)


def story(recipe: Recipe) -> str:
    """What the mules did, for a message."""
    return json.dumps(
        {number: [dataclasses.astuple(item) for item in found] for number, found in recipe.tenures().items()}
    )
