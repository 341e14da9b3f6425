"""The Emperor with vassals that instar runs itself: pool, zergling and instar.toml side by side."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from harness.emperor import NO_UWSGI, UWSGI, EmperorRun, Load, alive, free_port
from harness.instance import INSTAR
from harness.waiting import wait_for


@pytest.fixture
def emperor(folder: Path) -> Iterator[EmperorRun]:
    """An Emperor, to be started by the test; nothing of it is left afterwards."""
    run = EmperorRun(folder)
    yield run
    left = run.clean_up()
    assert not left, f"processes left behind: {left}\n{run.said()}"


def native(run: EmperorRun, port: int) -> None:
    """An application with a configuration of instar's own."""
    (run.server / "plain.py").write_text(
        "def application(environ, start_response):\n"
        "    start_response('200 OK', [('Content-Type', 'text/plain')])\n"
        "    return [b'plain answer']\n"
    )
    run.write(
        "shop.toml",
        f'[app]\nname = "shop"\ntarget = "plain:application"\nchdir = "{run.server}"\n'
        f'[web]\nbind = ["127.0.0.1:{port}"]\nworkers = 1\n[restart]\ngrace = 0.2\n',
    )


@pytest.mark.long
def test_directory_of_applications(emperor: EmperorRun) -> None:
    port = free_port()
    native(emperor, port)
    emperor.pool()
    emperor.zergling("app.yml", more="  mule: mule.py\n  farm: job-handlers:1\n")
    emperor.start()
    emperor.wait_state("shop.toml", "serving")
    app = emperor.wait_state("app.yml", "serving")
    pool = emperor.wait_state("pool.yml", "ready", "serving")
    assert (app["kind"], pool["kind"]) == ("instar", "instar")
    assert pool["stored"] >= 2
    assert emperor.get(port) == (200, "plain answer")
    wait_for("the pool's address answers", lambda: emperor.get()[1].startswith("one "))

    with Load(emperor) as load:
        # A handover, in the vassal's own supervisor.
        emperor.deploy("two")
        said = emperor.command("restart", "app", "--json")
        assert (said.code, said.json["outcome"], said.json["generation"]) == (0, "done", 2), said
        wait_for("the new release", lambda: load.answers["two"] > 20)
        assert emperor.status()["app.yml"]["pid"] == app["pid"]
        emperor.deploy("broken")
        assert emperor.command("restart", "app").code == 3

        # A pool that is killed comes back with its sockets, which the zergling holds too.
        emperor.deploy("two")
        os.kill(pool["pid"], 9)
        wait_for("another pool", lambda: emperor.status()["pool.yml"]["pid"] not in (None, pool["pid"]))
        emperor.wait_state("pool.yml", "ready", "serving")

        # All of them outlive the Emperor, and the next one takes them over.
        before = {name: item["pid"] for name, item in emperor.status().items()}
        emperor.kill()
        answers = load.answers["two"]
        wait_for("requests without an Emperor", lambda: load.answers["two"] > answers + 100)
        emperor.start()
        wait_for("taken over", lambda: {name: item["pid"] for name, item in emperor.status().items()} == before)

        # The pool's sockets were kept over that as well.
        os.kill(before["pool.yml"], 9)
        wait_for("another pool", lambda: emperor.status()["pool.yml"]["pid"] not in (None, before["pool.yml"]))
        emperor.wait_state("pool.yml", "ready", "serving")
    assert not load.failures, (load.failures[:5], load.answers)

    assert emperor.command("restart", "shop").code == 0
    # What can't be done is said.
    for arguments, code, text in (
        (["restart", "nosuch"], 2, "there is none of that name; it has app.yml, pool.yml, shop.toml"),
        (["restart", "--emperor", str(emperor.vassals)], 2, "name one of its vassals"),
        (["status", "--emperor", str(emperor.server)], 5, "there is no control socket"),
        (["run", str(emperor.vassals)], 1, "already runs"),
        (["run", str(emperor.vassals), "--workers", "2"], 2, "each application has them in its own file"),
    ):
        said = emperor.command(*arguments)
        assert (said.code, text in said.err) == (code, True), said
    shown = emperor.command("status", "--emperor", str(emperor.vassals))
    assert shown.code == 0
    assert "pool.yml" in shown.out
    assert emperor.command("stop", "--emperor", str(emperor.vassals)).code == 0
    assert not alive(before["app.yml"])
    assert not emperor.left()


@pytest.mark.skipif(UWSGI is None, reason=NO_UWSGI)
def test_a_real_emperor_with_a_vassal_of_ours(emperor: EmperorRun) -> None:
    port, stats = free_port(), emperor.folder / "stats.sock"
    emperor.write(
        "app.ini",
        f"[uwsgi]\nhttp-socket = 127.0.0.1:{port}\nchdir = {emperor.server}\nmodule = app:build()\nmaster = true\n",
    )
    options = ["--emperor", emperor.vassals, "--emperor-freq", "1", "--emperor-stats", stats]
    emperor.start_program([UWSGI, *options, "--emperor-wrapper", INSTAR.with_name("instar-uwsgi")])

    def answers(release: str) -> bool:
        try:
            return emperor.get(port)[1].startswith(f"{release} ")
        except OSError:
            return False

    def told() -> dict[str, int]:
        with socket.socket(socket.AF_UNIX) as sock:
            sock.connect(str(stats))
            answer = json.loads(b"".join(iter(lambda: sock.recv(65536), b"")))
        return {key: answer["vassals"][0][key] for key in ("pid", "ready", "accepting", "loyal")}

    wait_for("the vassal answers", lambda: answers("one"), 30.0)
    wait_for("ready, accepting and loyal", lambda: list(told().values())[1:] == [1, 1, 1])
    pid = told()["pid"]
    emperor.deploy("two")
    os.utime(emperor.vassals / "app.ini")
    wait_for("byte 1: a handover", lambda: answers("two"), 30.0)
    assert told()["pid"] == pid
    (emperor.vassals / "app.ini").unlink()
    wait_for("byte 0: the end", lambda: not alive(pid), 30.0)
    assert emperor.stop() == 0


@pytest.mark.long
def test_instar_is_upgraded_below_the_emperor(emperor: EmperorRun) -> None:
    """A vassal's supervisor stays the process that the Emperor knows, and goes on hearing it."""
    port = free_port()
    native(emperor, port)
    emperor.start()
    before = emperor.wait_state("shop.toml", "serving")["pid"]
    [state] = [
        path.parents[1] for path in emperor.state.rglob("control/control.sock") if path.parents[1].name == "shop"
    ]
    for _ in range(2):
        said = emperor.command("upgrade", "--state-dir", str(state), "--json")
        assert (said.code, said.json["outcome"], said.json["serving"]) == (0, "done", 1), said
        assert emperor.get(port) == (200, "plain answer")
        assert emperor.wait_state("shop.toml", "serving")["pid"] == before
    assert emperor.command("restart", "shop").code == 0
    (emperor.vassals / "shop.toml").unlink()
    wait_for("the vassal's end", lambda: not alive(before))
    said = emperor.command("upgrade", "--state-dir", str(emperor.state))
    assert said.code != 0
