"""Our zerg pool with zerglings of the real uWSGI and of ours."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest
from harness.project import free_port
from harness.waiting import wait_for
from zerg_world import Hammer, ZergWorld

from load.process import LoadProcess
from load.target import Target

pytestmark = pytest.mark.usefixtures("needs_uwsgi")

CLIENTS = {
    "new": {"count": 2, "pause": 0.02},
    "busy": {"pause": 0.01},
    "idle": {"count": 3, "pause": 0.5},
    "upload": {"seconds": 0.5},
    "gated": {"hold": 0.5},
    "stream": {"seconds": 0.5},
    "preconnect": {"count": 2, "wait": 0.5},
}


def router(pool) -> dict:
    [found] = pool.status()["routers"]
    return found


def test_a_real_zergling_serves_on_all_sockets(zerg: ZergWorld) -> None:
    pool = zerg.our_pool()
    one = zerg.zergling("real", "one")
    assert [zerg.ask(where) for where in ("tcp", "unix", "http")] == ["one"] * 3
    status = pool.status()
    assert status["pools"] == [
        {
            "path": str(zerg.pool_path),
            "addresses": [f"127.0.0.1:{zerg.port}", f"unix:{zerg.app_sock}"],
            "zerglings": [],
            "foreign": [one.pid],
        }
    ]
    assert status["routers"][0]["on"]
    pool.process.terminate()
    assert pool.ends() == 0
    assert not zerg.pool_path.exists()
    assert not Path(f"{zerg.pool_path}.instar").exists()
    # What a zergling holds, it goes on serving.
    assert zerg.ask("tcp") == "one"


def test_dance_of_real_zerglings_through_the_router(zerg: ZergWorld, folder: Path) -> None:
    zerg.our_pool()
    zerglings = [zerg.zergling("real", "one")]
    with LoadProcess(folder / "load", Target(port=zerg.http_port), CLIENTS, keep_alive=60.0) as load:
        for word in ("two", "three"):
            zerglings.append(zerg.zergling("real", word))
            zerg.until(word)
            zerglings[-2].letter("q")
            zerglings[-2].ends()
        report = load.stop()
    assert not report.failures, report.table()


@pytest.mark.parametrize("kept", [True, pytest.param(False, marks=pytest.mark.long)])
def test_the_pool_is_killed_and_comes_back(zerg: ZergWorld, kept: bool) -> None:
    """With a supervisor that keeps the sockets; and without one, when a zergling of ours has them."""
    if kept:
        zerg.keep()
    pool = zerg.our_pool()
    zerg.zergling("real" if kept else "ours", "one")
    sockets = listening(zerg)
    assert len(sockets) == 3
    hammer = Hammer(zerg)
    hammer.answered("one")
    for _ in range(2):
        pool.kill()
        hammer.answered("one")
        pool = zerg.our_pool()
        hammer.answered("one")
        zerg.until("one")
        assert listening(zerg) == sockets
    # The zergling that attaches now has the same sockets, so the old one may go.
    zerg.zergling("real", "two")
    zerg.until("two", "tcp")
    hammer.stop()


@pytest.mark.long
def test_a_foreign_zergling_holds_the_sockets_of_a_pool_that_nobody_kept(zerg: ZergWorld) -> None:
    zerg.our_pool().kill()
    pool = zerg.our_pool()
    zerg.zergling("real", "one")
    pool.kill()
    second = zerg.our_pool(ready=False)
    assert second.ends() == 1
    assert f"cannot listen on 127.0.0.1:{zerg.port}: the address is in use" in second.text()
    assert zerg.ask("tcp") == "one"


def test_our_zergling_takes_http_itself_and_the_router_is_off(zerg: ZergWorld, folder: Path) -> None:
    pool = zerg.our_pool()
    ours = zerg.zergling("ours", "one")
    wait_for("the router is off", lambda: not router(pool)["on"])
    assert [zerg.ask(where) for where in ("tcp", "unix", "http")] == ["one"] * 3
    before = router(pool)["requests"]
    [row] = pool.status()["pools"][0]["zerglings"]
    assert (row["pid"], row["state"]) == (ours.pid, "serving")
    with LoadProcess(folder / "load", Target(port=zerg.http_port), CLIENTS, keep_alive=60.0) as load:
        # To the real uWSGI, and back: the router comes on and goes off between.
        real = zerg.zergling("real", "two")
        ours.letter("q")
        ours.ends()
        assert router(pool)["on"]
        zerg.until("two")
        again = zerg.zergling("ours", "three")
        wait_for("the router is off", lambda: not router(pool)["on"])
        real.letter("q")
        real.ends()
        zerg.until("three")
        report = load.stop()
    assert not report.failures, report.table()
    assert router(pool)["requests"] > before
    again.letter("q")
    again.ends()


def test_our_zergling_without_a_server_leaves_http_to_the_router(zerg: ZergWorld, folder: Path) -> None:
    """Its environment has none, and is of a Python that can't borrow ours."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder / "venv"], check=True)
    [site] = (folder / "venv/lib").glob("python*/site-packages")
    (site / "sitecustomize.py").write_text(
        "import importlib.machinery as m\nm.EXTENSION_SUFFIXES.insert(0, '.other')\n"
    )
    pool = zerg.our_pool()
    bare = zerg.zergling("ours", "one", "--home", str(folder / "venv"))
    assert "has no granian, so HTTP is left to the router of the pool" in bare.text()
    assert [zerg.ask(where) for where in ("tcp", "unix", "http")] == ["one"] * 3
    assert router(pool)["on"]
    # One that has a server takes over, and gives HTTP back.
    able = zerg.zergling("ours", "two")
    wait_for("the router is off", lambda: not router(pool)["on"])
    bare.letter("q")
    bare.ends()
    again = zerg.zergling("ours", "three", "--home", str(folder / "venv"))
    able.letter("q")
    able.ends()
    assert [zerg.ask(where) for where in ("tcp", "unix", "http")] == ["three"] * 3
    again.letter("q")
    again.ends()


def test_a_zergling_of_an_old_python_is_told_so(zerg: ZergWorld, folder: Path) -> None:
    python = folder / "venv/bin/python"
    python.parent.mkdir(parents=True)
    python.write_text("#!/bin/sh\necho instar 3 7\n")
    python.chmod(0o755)
    zerg.our_pool()
    old = zerg.zergling("ours", "one", "--home", str(folder / "venv"), ready=False)
    assert old.ends() == 2
    assert f"cannot run the application under {python}: it is Python 3.7, and instar runs Python 3.11" in old.text()
    assert "keep this application on the real uWSGI" in old.text()


@pytest.mark.long
def test_our_zergling_is_killed(zerg: ZergWorld) -> None:
    """Its connection to the side socket ends with it, and the router serves the next."""
    pool = zerg.our_pool()
    ours = zerg.zergling("ours", "one")
    wait_for("the router is off", lambda: not router(pool)["on"])
    zerg.zergling("real", "two")
    ours.kill()
    wait_for("the router is on", lambda: router(pool)["on"])
    # The workers of a killed supervisor go on until they are ended; what they accept, they answer.
    assert zerg.ask() in ("one", "two")


def test_a_changed_configuration_is_applied_without_a_restart(zerg: ZergWorld) -> None:
    more, http, file = free_port(), free_port(), zerg.folder / "pool.yml"

    def write(first_http: int, addresses: str) -> None:
        lines = [f"http: 127.0.0.1:{first_http}", f"http-to: 127.0.0.1:{zerg.port}"]
        lines.append(f"zerg-pool: {zerg.pool_path}:{addresses}")
        file.write_text("\n  ".join(["uwsgi:", *lines]) + "\n")

    write(zerg.http_port, f"127.0.0.1:{zerg.port},{zerg.app_sock}")
    pool = zerg.our_pool(["--yaml", str(file)])
    zerg.zergling("real", "one")
    hammer = Hammer(zerg, ["tcp"])
    hammer.answered("one")
    write(http, f"127.0.0.1:{zerg.port},127.0.0.1:{more}")
    pool.process.send_signal(signal.SIGHUP)
    wait_for("the new address", lambda: router(pool)["address"] == f"127.0.0.1:{http}")
    assert pool.status()["pools"][0]["addresses"] == [f"127.0.0.1:{zerg.port}", f"127.0.0.1:{more}"]
    assert not zerg.app_sock.exists()
    zerg.zergling("real", "two")
    assert zerg.ask(("127.0.0.1", more)) == "two"
    # A configuration that can't be read changes nothing.
    file.write_text("uwsgi:\n  zerg-pool: nonsense\n")
    pool.process.send_signal(signal.SIGHUP)
    wait_for("the complaint", lambda: "cannot" in pool.text())
    assert router(pool)["address"] == f"127.0.0.1:{http}"
    hammer.stop()


@pytest.mark.long
def test_a_second_pool_on_the_same_path_is_refused(zerg: ZergWorld) -> None:
    pool = zerg.our_pool()
    second = zerg.our_pool(ready=False)
    assert second.ends() == 1
    assert f"the instar supervisor with pid {pool.pid} holds it" in second.text()
    pool.kill()
    real = zerg.real_pool()
    third = zerg.our_pool(ready=False)
    assert third.ends() == 1
    assert "cannot listen on unix:" in third.text()
    assert real.process.poll() is None


def listening(zerg: ZergWorld) -> set[str]:
    """Inodes of the sockets that listen on the pool's addresses."""
    tcp = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    unix = [line.split() for line in Path("/proc/net/unix").read_text().splitlines()[1:]]
    ports = {f"0100007F:{port:04X}" for port in (zerg.port, zerg.http_port)}
    found = {f[9] for f in tcp if f[1] in ports and f[3] == "0A"}
    return found | {f[6] for f in unix if f[7:] == [str(zerg.app_sock)] and int(f[3], 16) & 0x10000}
