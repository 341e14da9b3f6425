"""A pool under an Emperor of ours is killed: its next start has the same sockets, and nobody noticed."""

from __future__ import annotations

import contextlib
import os
import signal

import pytest
from harness.control import Control
from harness.processes import alive
from harness.waiting import wait_for
from zerg_world import OURS, Hammer, ZergWorld, real_uwsgi

pytestmark = pytest.mark.long


@pytest.mark.parametrize("kind", ["real", "ours"])
def test_the_pool_is_killed_under_load(zerg: ZergWorld, kind: str) -> None:
    if kind == "real" and real_uwsgi() is None:
        pytest.skip("needs the real uWSGI: pip install 'instar[uwsgi]', with a compiler")
    vassals = zerg.folder / "vassals"
    vassals.mkdir()
    lines = [f"http: 127.0.0.1:{zerg.http_port}", f"http-to: 127.0.0.1:{zerg.port}"]
    lines.append(f"zerg-pool: {zerg.pool_path}:127.0.0.1:{zerg.port},{zerg.app_sock}")
    (vassals / "pool.yml").write_text("\n  ".join(["uwsgi:", *lines]) + "\n")
    zerg.start("emperor", [*OURS, "--emperor", str(vassals)], state=zerg.folder / "run")
    wait_for("the pool", lambda: pool_pid(zerg), 30)
    zerg.zergling(kind, "one")
    # Requests through the router are its own: a killed router's are lost. Those to our zergling are not.
    places = ["tcp", "unix", "http"] if kind == "ours" else ["tcp", "unix"]
    hammer = Hammer(zerg, places, threads=2)
    hammer.answered("one")
    for _ in range(2):
        pid = pool_pid(zerg)
        os.kill(pid, signal.SIGKILL)
        wait_for("another pool", lambda pid=pid: not alive(pid) and pool_pid(zerg) not in (0, pid), 30)
        hammer.answered("one")
    # Whoever attaches to the new one gets the same sockets.
    zerg.zergling(kind, "two")
    hammer.answered("two")
    assert zerg.ask() in ("one", "two")
    hammer.stop()


def pool_pid(zerg: ZergWorld) -> int:
    """Of the pool when it serves, else 0. Its state is below the Emperor's, by the name of its file."""
    with contextlib.suppress(OSError, AssertionError):
        status = Control(zerg.folder / "run" / "pool").get("/v1/status")
        return int(status["pid"]) if status["state"] == "serving" else 0
    return 0
