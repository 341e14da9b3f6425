"""One instance of `instar uwsgi`: what it hears its orders by, and what it tells others."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from harness.control import Control, Handover
from harness.probe import Connection, ask
from harness.processes import MARK, kill_all
from harness.project import TESTS, free_port
from harness.recipe import INSTAR_UWSGI, forget_locks
from harness.waiting import wait_for

from instar.system.notify import notice_socket, receive


class One:
    """An instance from a few lines of YAML around the test application."""

    def __init__(self, folder: Path, *lines: str, name: str = "one", port: bool = True, **environment: str) -> None:
        self.folder, self.port = folder, free_port()
        self.state_dir = folder / f"state-{name}"
        self.fifo = folder / f"{name}.fifo"
        self.file = folder / f"{name}.yml"
        self.output = folder / f"{name}.out"
        self.mark = uuid.uuid4().hex
        self.lines = [
            *([f"http-socket: 127.0.0.1:{self.port}"] if port else []),
            "master: true",
            f"chdir: {folder}",
            f"pythonpath: {TESTS}",
            "module: apps.wsgi:app",
            "processes: 1",
            "die-on-term: true",
            f"master-fifo: {self.fifo}",
            *lines,
        ]
        self.environment = environment
        self.process: subprocess.Popen[bytes] | None = None

    def write(self) -> None:
        self.file.write_text(
            "uwsgi:\n" + "".join(f"  {line}\n" for line in self.lines) + "instar:\n  restart.grace: 0.1\n"
        )

    def start(self, fds: tuple[int, ...] = ()) -> One:
        self.write()
        inherited = {key: value for key, value in os.environ.items() if not key.startswith(("PYTEST", "COV", "UWSGI"))}
        mine = {MARK: self.mark, "NO_COLOR": "1", "INSTAR_STATE_DIR": str(self.state_dir)}
        with self.output.open("ab") as output:
            self.process = subprocess.Popen(
                [str(INSTAR_UWSGI), "--yaml", str(self.file)],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env={**inherited, **mine, **self.environment},
                cwd=self.folder,
                pass_fds=fds,
            )
        return self

    def up(self, fds: tuple[int, ...] = ()) -> One:
        self.start(fds)
        wait_for("it serves", self.serving, 30)
        return self

    def serving(self) -> bool:
        assert self.process and self.process.poll() is None, self.said()
        with contextlib.suppress(OSError, AssertionError):
            return bool(self.status()["state"] == "serving")
        return False

    def status(self) -> dict[str, Any]:
        return Control(self.state_dir).get("/v1/status")

    def generation(self) -> int:
        return int(self.status()["web"]["live_generation"] or 0)

    def command(self, text: str) -> None:
        with self.fifo.open("w") as fifo:
            fifo.write(text)

    def said(self) -> str:
        return self.output.read_text(errors="replace")

    def ended(self, limit: float = 20.0) -> int:
        assert self.process
        wait_for("it ends", lambda: self.process.poll() is not None, limit)
        return int(self.process.returncode)

    def clean_up(self) -> None:
        if self.process and self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(5)
        kill_all(self.mark)
        if self.process:
            self.process.wait(5)
        forget_locks(self.fifo)
        forget_locks(self.folder / "own.sock")


Make = Callable[..., One]


@pytest.fixture
def make(folder: Path, request: pytest.FixtureRequest) -> Iterator[Make]:
    made: list[One] = []

    def one(*lines: str, **options: Any) -> One:
        made.append(One(folder, *lines, **options))
        return made[-1]

    yield one
    for item in made:
        item.clean_up()
        if request.session.testsfailed:
            print(item.said())


def test_fifo_and_touched_files(make: Make, folder: Path) -> None:
    one = make(
        f"touch-reload: {folder}/reload",
        f"touch-exec: {folder}/run echo touched >> {folder}/log",
        f"hook-touch: {folder}/run write:{folder}/hook done",
        f"pidfile: {folder}/pid",
        "hook-accepting1-once: appendn:log once",
        "hook-accepting1: appendn:log accepting",
        "hook-pre-app: appendn:log pre-app",
        f"hook-as-user-atexit: touch:{folder}/left",
        "hook-as-user-atexit: exec:echo said at the end",
    ).up()
    assert one.process and int((folder / "pid").read_text()) == one.process.pid
    one.command("r")
    wait_for("generation 2", lambda: one.generation() == 2)
    (folder / "reload").touch()
    wait_for("generation 3", lambda: one.generation() == 3)
    wait_for("the handover is over", one.serving)
    (folder / "run").touch()
    wait_for("both have run", lambda: (folder / "hook").exists() and "touched" in (folder / "log").read_text())
    pre, accepting = "pre-app\n", "accepting\n"
    assert (folder / "log").read_text() == f"{pre}{accepting}once\n{pre}{accepting}{pre}{accepting}touched\n"
    workers = one.status()["generations"][-1]["workers"]
    one.command("w")
    wait_for("another worker", lambda: one.status()["generations"][-1]["workers"][0]["pid"] != workers[0]["pid"])
    one.command("q")
    assert one.ended() == 0
    assert (folder / "left").exists() and not (folder / "pid").exists() and not one.fifo.exists()
    assert "\nsaid at the end\n" in one.said()


@pytest.mark.long
def test_reloads_while_one_is_under_way_are_one_more(make: Make) -> None:
    one = make().up()
    one.command("r")
    wait_for("the handover runs", lambda: one.status()["handover"])
    one.command("rrr")
    wait_for("generation 3", lambda: one.generation() == 3)
    wait_for("the handover is over", one.serving)
    one.command("s")
    wait_for("the state is in the log", lambda: '"live_generation": 3' in one.said())
    assert one.generation() == 3


def test_a_hook_that_fails_ends_the_instance(make: Make) -> None:
    one = make("hook-accepting1-once: writefifo:/nonexistent/fifo 2q").start()
    assert one.ended() == 1
    assert "cannot go on: cannot run hook-accepting1-once writefifo:/nonexistent/fifo 2q" in one.said()


def test_a_hook_that_fails_later_rolls_back(make: Make, folder: Path) -> None:
    (folder / "there").touch()
    one = make(f"hook-accepting1: unlink:{folder}/there").up()
    result = Handover(Control(one.state_dir)).result()
    assert result["outcome"] == "rolled-back" and "no such file" in result["error"], result
    assert ask(one.port) == 1


def test_an_early_hook_that_fails_starts_nothing(make: Make) -> None:
    one = make("hook-as-root: exec:exit 5").start()
    assert one.ended() == 1
    assert "cannot" not in one.said().split("hook-as-root")[0]
    assert "exited with status 5" in one.said()


def test_early_hooks_run_where_it_was_started_and_later_ones_in_chdir(make: Make, folder: Path) -> None:
    (folder / "app").mkdir()
    one = make(
        "chdir: app",
        "env: WORD=of the file",
        "hook-as-user: exec:echo $WORD > early",
        "hook-accepting: exec:echo $WORD > late",
        f"pythonpath: {TESTS}",
    ).up()
    assert (folder / "early").read_text() == (folder / "app/late").read_text() == "of the file\n"
    assert ask(one.port) == 1


def test_unknown_functions_are_refused_before_anything(make: Make) -> None:
    one = make("hook-master-start: unix_signal:15 gracefully_kill_everybody").start()
    assert one.ended() == 2
    assert "did you mean gracefully_kill_them_all?" in one.said()
    assert not one.state_dir.exists()


def test_a_broken_configuration_at_a_reload_changes_nothing(make: Make) -> None:
    one = make().up()
    one.lines.append("hook-accepting: nonsense:x")
    one.write()
    one.command("r")
    wait_for("the reason is in the log", lambda: "there is no action nonsense" in one.said())
    assert one.generation() == 1 and ask(one.port) == 1
    one.lines.pop()
    one.write()
    one.command("r")
    wait_for("generation 2", lambda: one.generation() == 2)


def test_the_emperors_bytes(make: Make) -> None:
    emperor, theirs = socket.socketpair()
    emperor.settimeout(20)
    one = make(UWSGI_EMPEROR_FD=str(theirs.fileno())).up((theirs.fileno(),))
    theirs.close()
    news = b""
    ask(one.port)
    while b"\x11" not in news:
        news += emperor.recv(1)
    assert news == bytes([1, 5, 17])
    emperor.send(bytes([1]))
    wait_for("generation 2", lambda: one.generation() == 2)
    wait_for("the handover is over", one.serving)
    emperor.send(bytes([2]))
    assert emperor.recv(1) == bytes([22])
    assert one.ended() == 0
    assert emperor.recv(1) == b"", "no child keeps the link open"
    emperor.close()


def test_an_emperor_that_dies_ends_nobody(make: Make) -> None:
    emperor, theirs = socket.socketpair()
    one = make(UWSGI_EMPEROR_FD=str(theirs.fileno())).up((theirs.fileno(),))
    theirs.close()
    emperor.close()
    one.command("r")
    wait_for("generation 2", lambda: one.generation() == 2)
    assert ask(one.port) == 2


@pytest.mark.long
def test_a_service_manager_is_told(make: Make, folder: Path) -> None:
    sock = notice_socket(folder / "notify")
    fields: list[dict[str, str]] = []

    def told(name: str) -> bool:
        while (notice := receive(sock)) is not None:
            fields.append(notice.fields)
        return any(name in item for item in fields)

    one = make(NOTIFY_SOCKET=str(folder / "notify")).up()
    wait_for("READY=1", lambda: told("READY"))
    assert "generation 1 serves" in [item.get("STATUS") for item in fields]
    one.command("q")
    wait_for("STOPPING=1", lambda: told("STOPPING"))
    assert one.ended() == 0
    sock.close()


@pytest.mark.long
def test_a_log_file_that_was_moved_away_is_opened_anew(make: Make, folder: Path) -> None:
    log = folder / "log.txt"
    one = make(f"logto: {log}").up()
    log.rename(folder / "log.txt.old")
    one.command("l")
    one.command("s")
    wait_for("a new file", lambda: log.exists() and "live_generation" in log.read_text())
    one.command("Ls")
    wait_for("a rotated file", lambda: (folder / "log.txt.1").exists())


@pytest.mark.long
def test_brutal_stop_does_not_wait_for_requests(make: Make) -> None:
    one = make().up()
    slow = Connection(one.port)
    slow.send("/gate?n=never")
    wait_for("it is under way", lambda: one.status()["generations"][0]["workers"][0]["in_flight"] == 1)
    began = time.monotonic()
    one.command("Q")
    assert one.ended() == 0
    assert time.monotonic() - began < 8
    slow.close()


@pytest.mark.long
def test_paused_by_letter(make: Make) -> None:
    one = make().up()
    one.command("p")
    wait_for("it is paused", lambda: one.status()["web"]["paused"])
    one.command("p")
    wait_for("it is not", lambda: not one.status()["web"]["paused"])
    assert ask(one.port) == 1


@pytest.mark.long
def test_zerg_server(make: Make, folder: Path) -> None:
    """An instance hands its own sockets to another one, which then serves on without it."""
    pool = folder / "own.sock"
    first = make("protocol: http", f"socket: 127.0.0.1:{free_port()}", f"zerg-server: {pool}", port=False).up()
    address = first.status()["web"]["binds"][0]["address"]
    port = int(address.rpartition(":")[2])
    assert ask(port) == 1
    second = make(f"zerg: {pool}", "protocol: http", name="two", port=False).up()
    assert [item["address"] for item in second.status()["web"]["binds"]] == [address]
    first.command("q")
    assert first.ended() == 0
    assert ask(port) == 1
    assert second.status()["generations"][0]["workers"][0]["requests"] >= 1
