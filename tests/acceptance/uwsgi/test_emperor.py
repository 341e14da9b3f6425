"""The Emperor with vassals on the real uWSGI: start, touch, stop, failures, crash, and the dance."""

from __future__ import annotations

import itertools
import json
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from harness.emperor import NO_UWSGI, UWSGI, EmperorRun, Load, alive
from harness.waiting import wait_for

pytestmark = pytest.mark.skipif(UWSGI is None, reason=NO_UWSGI)


@pytest.fixture
def emperor(folder: Path) -> Iterator[EmperorRun]:
    """An Emperor, to be started by the test; nothing of it is left afterwards."""
    run = EmperorRun(folder)
    yield run
    left = run.clean_up()
    assert not left, f"processes left behind: {left}\n{run.said()}"


def real(run: EmperorRun) -> EmperorRun:
    """Everything on the real uWSGI, the pool too."""
    run.pool(remark=f"# instar: uwsgi={UWSGI}")
    return run


def wait_answer(run: EmperorRun, version: str) -> None:
    def answers() -> bool:
        try:
            return run.get()[1].startswith(f"{version} ")
        except OSError:
            return False

    wait_for(f"release {version} answers", answers, 30.0)


def test_life_of_a_vassal(emperor: EmperorRun) -> None:
    # Its name comes first, so it would be started before the pool if nobody looked.
    real(emperor).zergling("app.yml")
    hook = emperor.folder / "hook"
    hook.write_text('#!/bin/sh\necho "$1 in $UWSGI_VASSALS_DIR" >> ../hooked\n')
    hook.chmod(0o755)
    stats = emperor.folder / "stats.sock"
    emperor.start("--emperor-wrapper", str(UWSGI), "--vassals-start-hook", str(hook), "--emperor-stats", str(stats))
    first = emperor.wait_state("app.yml", "serving")
    assert (first["kind"], first["restarts"], first["failures"]) == ("uwsgi", 0, 0)
    wait_answer(emperor, "one")
    wait_for("loyal after its first answer", lambda: emperor.status()["app.yml"]["loyal"])

    assert f"pool.yml in {emperor.vassals}" in (emperor.folder / "hooked").read_text()
    told = {item["id"]: item for item in read_stats(stats)["vassals"]}
    assert {(item["pid"], item["loyal"], item["accepting"]) for item in [told["app.yml"]]} == {(first["pid"], 1, 1)}

    # It is there again when it dies.
    os.kill(first["pid"], 9)
    wait_for("another process", lambda: emperor.status()["app.yml"]["pid"] not in (None, first["pid"]))
    second = emperor.wait_state("app.yml", "serving")

    # By command it stays stopped, until it is asked for.
    assert emperor.command("stop", "app").code == 0
    assert not alive(second["pid"])
    assert emperor.status()["app.yml"]["state"] == "stopped"
    said = emperor.command("restart", "app", "--json")
    assert (said.code, said.json["outcome"], said.json["vassal"]) == (0, "done", "app.yml")

    # A removed file ends it, and a new file starts one.
    pid = emperor.wait_state("app.yml", "serving")["pid"]
    (emperor.vassals / "app.yml").unlink()
    wait_for("it ends", lambda: not alive(pid))
    assert "app.yml" not in emperor.status()
    emperor.zergling("other.ini.yaml")
    emperor.wait_state("other.ini.yaml", "serving")
    assert emperor.stop() == 0
    assert not emperor.left()


def read_stats(path: Path):
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(str(path))
        return json.loads(b"".join(iter(lambda: sock.recv(65536), b"")))


def test_failures_are_throttled_and_a_touch_tries_at_once(emperor: EmperorRun) -> None:
    emperor.deploy("broken")
    real(emperor).zergling("app.yml", more="  need-app: true\n")
    emperor.start("--emperor-wrapper", str(UWSGI), "--emperor-throttle", "30000")
    wait_for("two failures", lambda: emperor.status()["app.yml"]["failures"] >= 2, 30.0)
    waiting = emperor.wait_state("app.yml", "waiting")
    assert waiting["throttled_for"] > 5
    assert "exited with status 22" in waiting["note"]
    emperor.deploy("two")
    os.utime(emperor.vassals / "app.yml")
    emperor.wait_state("app.yml", "serving", limit=8.0)
    wait_answer(emperor, "two")


def test_real_vassals_outlive_a_killed_emperor(emperor: EmperorRun) -> None:
    real(emperor).zergling()
    emperor.start("--emperor-wrapper", str(UWSGI))
    before = emperor.wait_state("app.yml", "serving")["pid"]
    wait_answer(emperor, "one")
    with Load(emperor) as load:
        emperor.kill()
        wait_for("requests without an Emperor", lambda: load.answers["one"] > 200)
        assert alive(before)
        # What happens while nobody looks is done by the next one.
        emperor.deploy("two")
        os.utime(emperor.vassals / "app.yml")
        emperor.start("--emperor-wrapper", str(UWSGI))
        wait_for("the end of the dance", lambda: emperor.status()["app.yml"]["pid"] not in (None, before), 40.0)
        emperor.wait_state("app.yml", "serving")
        wait_for("the new release", lambda: load.answers["two"] > 200)
    assert not load.failures, load.failures[:5]
    assert emperor.status()["pool.yml"]["restarts"] == 0
    assert not alive(before)


@pytest.mark.long
@pytest.mark.parametrize("pool", ["instar", "uwsgi"])
def test_dance_replaces_a_zergling_and_a_broken_release_does_not(emperor: EmperorRun, pool: str) -> None:
    remark = "  # instar: boot_timeout=8\n"
    # A pool is run by instar even if the wrapper is the real uWSGI, unless its file says otherwise.
    emperor.pool(remark=f"# instar: uwsgi={UWSGI if pool == 'uwsgi' else pool}")
    emperor.zergling(more=f"{remark}  mule: mule.py\n  mule: mule.py\n  farm: job-handlers:1,2\n")
    emperor.start("--emperor-wrapper", str(UWSGI))
    emperor.wait_state("app.yml", "serving")
    assert emperor.status()["pool.yml"]["kind"] == pool
    wait_answer(emperor, "one")
    with Load(emperor) as load:
        emperor.deploy("two")
        said = emperor.command("restart", "app", "--json")
        assert said.code == 0, said
        stages = [(stage["stage"], stage["state"]) for stage in said.json["stages"]]
        assert stages == [(name, "done") for name in ("wait", "rehearsal", "restarter", "leave", "main", "end")]
        wait_for("the new release", lambda: load.answers["two"] > 50)
        main = emperor.status()["app.yml"]["pid"]
        for release in ("broken", "sick"):
            emperor.deploy(release)
            # A sick one boots, but answers the probe with errors.
            said = emperor.command("restart", "app")
            assert said.code == 3, said
            assert "the main instance serves on" in said.err
        assert emperor.status()["app.yml"]["pid"] == main
        assert load.answers["two"]
    assert not load.failures, (load.failures[:5], load.answers)
    assert not overlaps(emperor.server / "mules.log")


@pytest.mark.long
def test_emperor_killed_in_the_middle_of_a_dance(emperor: EmperorRun) -> None:
    emperor.pool()
    emperor.zergling(more="  mule: mule.py\n  farm: job-handlers:1\n")
    emperor.start("--emperor-wrapper", str(UWSGI))
    first = emperor.wait_state("app.yml", "serving")["pid"]
    wait_answer(emperor, "one")
    # The restarter boots like the main instance; that one takes longer to come back.
    emperor.deploy("slow")
    with Load(emperor) as load:
        os.utime(emperor.vassals / "app.yml")
        wait_for("the main instance is gone", lambda: not alive(first), 40.0, 0.01)
        emperor.kill()
        answers = load.answers["slow"]
        wait_for("the restarter serves", lambda: load.answers["slow"] > answers + 20)
        emperor.start("--emperor-wrapper", str(UWSGI))

        def over() -> bool:
            app = emperor.status()["app.yml"]
            return app["state"] == "serving" and app["pid"] != first and app["restarter"] is None

        wait_for("the dance ends", over, 40.0)
        answers = load.answers["slow"]
        wait_for("the main instance serves", lambda: load.answers["slow"] > answers + 20)
    assert not load.failures, (load.failures[:5], load.answers)
    assert not overlaps(emperor.server / "mules.log", 2)


def overlaps(log: Path, least: int = 4) -> list[str]:
    """Mules of one number in two processes at the same time."""
    spans: dict[tuple[str, str], list[float]] = {}
    for line in log.read_text().splitlines():
        moment, mule, pid = line.split()
        spans.setdefault((mule, pid), []).append(float(moment))
    rows = sorted((mule, min(times), max(times), pid) for (mule, pid), times in spans.items())
    assert len({pid for _, _, _, pid in rows}) >= least, rows
    return [f"{one} and {other}" for one, other in itertools.pairwise(rows) if one[0] == other[0] and other[1] < one[2]]
