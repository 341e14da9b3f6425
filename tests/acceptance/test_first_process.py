"""As process 1 of a container: signals arrive, strays are reaped, and no exit status of our own is stolen."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from harness.instance import INSTAR, Instance
from harness.project import Project
from harness.waiting import wait_for

UNSHARE = ("unshare", "--pid", "--fork", "--mount-proc", "--kill-child")
#: Orphans, one after the other: the shell between ends at once, and process 1 gets the grandchild.
STRAYS = "while :; do (sleep 0.01 &); sleep 0.02; done"


def possible() -> bool:
    try:
        return subprocess.run([*UNSHARE, "true"], capture_output=True, timeout=20, check=False).returncode == 0
    except OSError:
        return False


pytestmark = pytest.mark.skipif(
    not possible(), reason="needs `unshare --pid --mount-proc` (root, or user namespaces and CAP_SYS_ADMIN)"
)


def children(pid: int) -> list[int]:
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def state(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return ""


@pytest.fixture
def contained(instance: Instance) -> Iterator[Instance]:
    yield instance
    # Its process is `unshare`, which waits for process 1.
    for pid in children(instance.pid) if state(instance.pid) else []:
        os.kill(pid, signal.SIGKILL)


def test_strays_are_reaped_and_no_exit_status_is_stolen(contained: Instance, project: Project) -> None:
    project.config["services"] = {"strays": {"command": ["sh", "-c", STRAYS], "stop_timeout": 2.0}}
    project.config["restart"]["before"] = [["sh", "-c", f"test ! -e {project.root}/fail || exit 7"]]
    contained.start(program=[*UNSHARE, str(INSTAR)])
    [first] = children(contained.pid)
    seen: set[int] = set()
    ended = threading.Event()

    def watch() -> None:
        while not ended.wait(0.005):
            seen.update(children(first))

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        assert contained.status()["pid"] == 1
        (project.root / "fail").touch()
        for _ in range(8):
            said = contained.command("restart", "--json")
            assert said.code == 3, said
            assert "status 7" in said.json["error"], said
        strays = len(seen)
        wait_for("more strays", lambda: len(seen) > strays + 20)
    finally:
        ended.set()
        watcher.join()
    # What is a zombie now has gone a moment later: none is left lying.
    zombies = {pid for pid in children(first) if state(pid) == "Z"}
    wait_for("they are reaped", lambda: not any(state(pid) == "Z" for pid in zombies))
    os.kill(first, signal.SIGTERM)
    assert contained.wait() == 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGQUIT])
def test_other_signals(contained: Instance, number: signal.Signals) -> None:
    contained.start(program=[*UNSHARE, str(INSTAR)])
    [first] = children(contained.pid)
    os.kill(first, number)
    assert contained.wait() == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGQUIT])
def test_a_signal_before_there_is_anything_to_stop(folder: Path, number: signal.Signals) -> None:
    """The kernel would withhold it from process 1; elsewhere the signal itself ends the process."""
    file = folder / "instar.toml"
    os.mkfifo(file)
    argv = [*UNSHARE, str(INSTAR), "run", "-c", str(file)]
    # It opens when the other end is open: instar reads its configuration, and waits for it.
    with subprocess.Popen(argv, stderr=subprocess.DEVNULL) as process, file.open("wb"):
        [first] = children(process.pid)
        os.kill(first, number)
        assert process.wait(20) == 128 + number
