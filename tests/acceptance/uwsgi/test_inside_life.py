"""What becomes of an application that uses uWSGI's module when instar restarts, reloads and stops it."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from harness.processes import alive
from harness.uwsgi import Server
from harness.waiting import wait_for

from oracle.uwsgi import needs_uwsgi

MULES = Path(__file__).parents[2] / "apps/mules"
APP = ["--module", "apps.uwsgi_app", "--threads", "2", "--set", "instar.restart.grace=0.3"]


@pytest.fixture
def start() -> Iterator[Callable[..., Server]]:
    """Starts a server; nothing of it is left at the end."""
    folder = Path(tempfile.mkdtemp(prefix="instar-"))
    made: list[Server] = []

    def start(*options: str, real: bool = False) -> Server:
        made.append(Server(folder / str(len(made)), [*APP, *options], real=real))
        return made[-1].wait_until_it_serves()

    yield start
    for server in made:
        server.clean_up()
    shutil.rmtree(folder, ignore_errors=True)


def test_a_handover_moves_mules(start: Callable[..., Server]) -> None:
    """The old mule ends before the new one runs; a script that handles SIGHUP is let to finish; messages stay."""
    mules = [f"--mule={MULES / name}" for name in ("answering.py", "own_signals.py")]
    server = start(*mules, "--mules", "1", "--locks", "1")
    for number in (1, 2, 3):
        server.wait_for_event(f"mule {number}: post_fork_hook")
    server.wait_for_event("handles SIGHUP")
    assert server.evaluate("uwsgi.reload()") == "True"
    for number in (1, 2, 3):
        server.wait_for_event(f"mule {number}: post_fork_hook", 2)
    server.wait_for_event("__main__", 2)
    begins, ended = "post_fork_hook", ["uwsgi.atexit", "atexit"]
    assert told(server, 1) == [begins, "__main__", *ended, begins, "__main__"]
    own = ["handles SIGHUP", "signal 1", "woken with b''", "finally", *ended]
    assert told(server, 2)[:8] == [begins, *own, begins]
    assert told(server, 3) == [begins, *ended, begins]


def told(server: Server, mule: int) -> list[str]:
    """What a mule has noted, in short."""
    notes = [line.partition(": ")[2] for line in server.events(f"mule {mule}:")]
    return ["__main__" if note.startswith("__main__") else note for note in notes]


def test_a_farm_under_a_lock_moves_at_once_and_its_successors_hear(start: Callable[..., Server]) -> None:
    """The message by which an old mule ends its thread must not reach a new one, which would be deaf afterwards."""
    script = f"--mule={MULES / 'dispatching.py'}"
    server = start(script, script, "--farm", "jobs:1,2")
    server.wait_for_event("dispatches", 2)
    began = time.monotonic()
    assert server.evaluate("uwsgi.reload()") == "True"
    server.wait_for_event("dispatches", 4)
    # Far below mule-reload-mercy.
    assert time.monotonic() - began < 15
    assert len(server.events("done")) == 2
    # One alone: whichever of the two holds the lock all the time, it is not waited for.
    for name in ("main.jobs.1", "main.jobs.2"):
        restart(server, name)
    server.wait_for_event("dispatches", 6)
    server.evaluate("[uwsgi.farm_msg('jobs', f'message {i}') for i in range(10)]")
    server.wait_for_event("got b'message", 10)


def restart(server: Server, name: str) -> None:
    """A fresh process for a handler, as soon as no handover is under way; then it must be quick."""
    took = 0.0

    def done() -> bool:
        nonlocal took
        began = time.monotonic()
        said = server.command("handlers", "restart", name)
        took = time.monotonic() - began
        assert said.returncode in (0, 4), said
        return said.returncode == 0

    wait_for(f"{name} is restarted", done, 30)
    assert took < 15


def test_reload_and_stop(start: Callable[..., Server]) -> None:
    server = start()
    first = int(server.evaluate("os.getpid()"))
    master = server.evaluate("uwsgi.masterpid()")
    assert int(master) == server.process.pid
    assert server.evaluate("uwsgi.reload()") == "True"
    wait_for("another process answers", lambda: int(server.evaluate("os.getpid()")) != first)
    wait_for("the old one is gone", lambda: not alive(first), 90)
    assert server.evaluate("uwsgi.masterpid()") == master
    assert server.evaluate("uwsgi.stop()") == "True"
    assert server.process.wait(30) == 0
    assert not server.clean_up()


def test_a_mule_that_is_deaf_to_python_is_ended(start: Callable[..., Server], tmp_path: Path) -> None:
    """Python's handlers run between two instructions; this main thread is in one function of C for long."""
    script = tmp_path / "deaf.py"
    endless = "hashlib.pbkdf2_hmac('sha256', b'', b'', 10 ** 9)"
    script.write_text(f"import hashlib\nfrom apps.uwsgi_app import note\nnote('deaf')\n{endless}\n")
    server = start(f"--mule={script}", "--mule-reload-mercy", "30")
    server.wait_for_event("deaf")
    assert server.evaluate("uwsgi.reload()") == "True"
    server.wait_for_event("deaf", 2)
    assert len(server.events("mule 1: atexit")) == 0


def test_a_module_that_starts_threads_is_loaded_in_a_mule_without_program(
    start: Callable[..., Server], tmp_path: Path
) -> None:
    """instar loads such an application in each worker, by itself; the mule's hook is set all the same."""
    (tmp_path / "threaded.py").write_text(
        "import threading, time\nfrom apps.uwsgi_app import *\n"
        "threading.Thread(target=time.sleep, args=(1000,), daemon=True).start()\n"
    )
    server = start("--pythonpath", str(tmp_path), "--module", "threaded", "--mules", "1")
    assert server.evaluate_in_mule(1, "uwsgi.mule_id()") == "1"
    assert server.evaluate("uwsgi.worker_id(), app.AT_IMPORT[0]") == "(1, 1)"
    server.wait_for_event("worker 1 mule 0: post_fork_hook")


@needs_uwsgi
def test_lazy_apps(start: Callable[..., Server]) -> None:
    """The application is imported by each worker, after its hooks; mules never have it."""
    mule = f"--mule={MULES / 'answering.py'}"
    servers = [start("--lazy-apps", "--processes", "2", mule, real=real) for real in (True, False)]
    for server in servers:
        server.wait_for_event("__main__")
        server.wait_for_event("worker 2 mule 0: imported")
    real, ours = (
        [server.events(who) for who in ("worker 0 mule 0", "worker 1", "worker 2", "mule 1")] for server in servers
    )
    assert ours == real
    for server in servers:
        server.evaluate_in_mule(1, "uwsgi.lock(0)")
        assert server.evaluate("uwsgi.is_locked(0), uwsgi.mule_msg('x')") == "(True, True)"
