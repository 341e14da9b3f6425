"""Named handlers: what is configured, what is commanded, and what then happens to real processes."""

from __future__ import annotations

import http.client
import json
import os
import signal
import sys
import time
from collections.abc import Iterator
from typing import Any

import pytest
from harness.handlers import SCRIPT, act, all_active, light_web, misbehave, pool, restart, row, rows
from harness.instance import Instance
from harness.processes import alive
from harness.project import Project
from harness.waiting import wait_for
from ledger import Ledger, breaches, gaps

KEPT = 6


@pytest.fixture
def ledger(project: Project) -> Iterator[Ledger]:
    """A project with one web worker, whose handlers write to an empty ledger."""
    found = Ledger(project.root)
    light_web(project)
    (project.root / "identity").mkdir()
    project.config["app"]["env"].update(found.environment, TEST_IDENTITY=str(project.root / "identity"))
    project.config["restart"].update(grace=0.2, drain_timeout=5.0)
    yield found
    found.close()


def identity(project: Project, name: str) -> dict[str, Any]:
    """What a handler has told about itself."""
    path = project.root / "identity" / name
    wait_for(f"{name} tells who it is", path.exists)
    found: dict[str, Any] = json.loads(path.read_text())
    return found


# --- names and identity -------------------------------------------------------------------------------------


def test_names_follow_the_template(instance: Instance, ledger: Ledger) -> None:
    instance.project.config["app"]["handler_name"] = "{pool}_{index}-{server_name}"
    pool(instance.project, "mail", target="apps.named:described", count=2)
    pool(instance.project, "old", target="apps.named:described", name="handler{index0}")
    instance.start()
    all_active(instance, ["mail_1-test", "mail_2-test", "handler0"])


def test_a_handler_knows_its_name_tags_and_environment(instance: Instance, ledger: Ledger) -> None:
    pool(instance.project, "mail", target="apps.named:described", count=2, tags=["fast", "eu"], env={"COLOUR": "green"})
    instance.start()
    held = all_active(instance, ["test.mail.1", "test.mail.2"])
    found = identity(instance.project, "test.mail.2")
    env = found.pop("env")
    assert found == {
        "name": "test.mail.2", "pool": "mail", "index": 2, "tags": ["fast", "eu"], "generation": 1,
        "epoch": held["test.mail.2"]["epoch"],
    }  # fmt: skip
    assert held["test.mail.2"]["tags"] == ["fast", "eu"]
    assert env["COLOUR"] == "green"
    assert (env["INSTAR_HANDLER"], env["INSTAR_POOL"], env["INSTAR_INDEX"]) == ("test.mail.2", "mail", "2")
    assert (env["INSTAR_TAGS"], env["INSTAR_GENERATION"]) == ("fast,eu", "1")


def test_a_cold_program_learns_its_name_from_the_environment(instance: Instance, ledger: Ledger) -> None:
    told = instance.project.root / "told"
    say = "import json, os, time; open(os.environ['TOLD'], 'w').write(json.dumps(dict(os.environ))); time.sleep(3600)"
    pool(
        instance.project, "tool", command=["{python}", "-c", say], tags=["a", "b"], env={"TOLD": str(told)},
        stop_timeout=0.2,
    )  # fmt: skip
    instance.start()
    held = all_active(instance, ["test.tool.1"])["test.tool.1"]
    wait_for("the program has written", lambda: told.exists() and told.read_text().endswith("}"))
    env = json.loads(told.read_text())
    told_names = {key: env[f"INSTAR_{key.upper()}"] for key in ("handler", "pool", "index", "tags", "epoch")}
    assert told_names == {
        "handler": "test.tool.1", "pool": "tool", "index": "1", "tags": "a,b", "epoch": str(held["epoch"])
    }  # fmt: skip


def test_resizing_keeps_the_surviving_names(instance: Instance, ledger: Ledger) -> None:
    names = [f"test.mail.{index}" for index in range(1, 4)]
    pool(instance.project, "mail", target="apps.named:threaded", count=2)
    instance.start()
    before = all_active(instance, names[:2])
    pool(instance.project, "mail", target="apps.named:threaded", count=3)
    instance.project.write()
    assert restart(instance).get("outcome") == "done"
    grown = all_active(instance, names)
    assert [grown[name]["epoch"] for name in names] == [before[names[0]]["epoch"] + 1, before[names[1]]["epoch"] + 1, 1]
    pool(instance.project, "mail", target="apps.named:threaded", count=1)
    instance.project.write()
    assert restart(instance).get("outcome") == "done"
    left = all_active(instance, names[:1])
    assert left[names[0]]["epoch"] == grown[names[0]]["epoch"] + 1
    assert not alive(grown[names[1]]["pid"]) and not alive(grown[names[2]]["pid"])
    assert breaches(ledger.lines(), 5.0) == []


# --- broken releases ----------------------------------------------------------------------------------------


def test_a_target_that_never_waits_for_its_name_is_rolled_back_with_a_reason(
    instance: Instance, ledger: Ledger
) -> None:
    pool(instance.project, "mail", target="apps.named:threaded")
    instance.project.config["restart"]["boot_timeout"] = 2.0
    instance.start()
    before = all_active(instance, ["test.mail.1"])
    misbehave(instance.project, "never")
    result = restart(instance)
    assert result.get("outcome") == "rolled-back", result
    assert "test.mail.1 did not reach standby: does the target call wait_active()?" in result["error"]
    assert all_active(instance, ["test.mail.1"])["test.mail.1"]["epoch"] == before["test.mail.1"]["epoch"]


@pytest.mark.parametrize("kind", ["boot", "takeover"])
def test_a_broken_handler_takes_the_whole_release_back(instance: Instance, ledger: Ledger, kind: str) -> None:
    names = ["test.mail.1", "test.mail.2", "test.loop.1"]
    pool(instance.project, "mail", target="apps.named:threaded", count=2)
    pool(instance.project, "loop", target="apps.named:looped")
    instance.start()
    before = all_active(instance, names)
    misbehave(instance.project, kind, pool="loop")
    result = restart(instance)
    assert result.get("outcome") == "rolled-back", result
    assert "test.loop.1" in result["error"], result
    after = all_active(instance, names)
    assert {item["generation"] for item in after.values()} == {1}
    assert instance.live()["number"] == 1
    assert _ask(instance.project.port)["generation"] == 1
    # A release that fails in boot must not even have touched the names.
    assert (kind == "boot") is all(after[name]["pid"] == before[name]["pid"] for name in names)
    assert breaches(ledger.lines(), 8.0) == []


def test_rollback_returns_the_names(instance: Instance, ledger: Ledger) -> None:
    pool(instance.project, "mail", target="apps.named:threaded", count=2)
    names = ["test.mail.1", "test.mail.2"]
    instance.start()
    assert restart(instance).get("outcome") == "done"
    second = all_active(instance, names)
    result = instance.handover({}, "/v1/rollback").result()
    assert result.get("outcome") == "done", result
    third = all_active(instance, names)
    live = instance.live()["number"]
    assert {item["generation"] for item in third.values()} == {live}
    assert all(third[name]["epoch"] > second[name]["epoch"] for name in names)
    wait_for("one generation", lambda: len(instance.status()["generations"]) == 1)
    assert breaches(ledger.lines(), 5.0) == []


def test_a_warm_rollback_returns_the_names_to_the_old_generation(instance: Instance, ledger: Ledger) -> None:
    pool(instance.project, "mail", target="apps.named:threaded", count=2)
    names = ["test.mail.1", "test.mail.2"]
    instance.start()
    assert instance.handover({"keep_old": "60"}).result().get("outcome") == "done"
    assert {item["generation"] for item in all_active(instance, names).values()} == {2}
    assert instance.handover({}, "/v1/rollback").result().get("outcome") == "done"
    assert {item["generation"] for item in all_active(instance, names).values()} == {1}
    assert instance.live()["number"] == 1


# --- the end of a handler -----------------------------------------------------------------------------------


def test_a_deaf_handler_gets_sigterm_then_its_whole_tree_is_killed(instance: Instance, ledger: Ledger) -> None:
    pool(instance.project, "mail", target="apps.named:threaded", stop_timeout=0.5, kill_timeout=0.5)
    release = misbehave(instance.project, "stubborn")
    instance.start()
    held = all_active(instance, ["test.mail.1"])["test.mail.1"]
    wait_for("it has a child", (release / "stubborn").exists)
    parent, child = map(int, (release / "stubborn").read_text().split())
    assert parent == held["pid"]
    instance.project.deploy("good")
    began = time.monotonic()
    assert restart(instance).get("outcome") == "done"
    assert time.monotonic() - began >= 1.0
    assert not alive(parent)
    wait_for("the child is gone too", lambda: not alive(child), 5.0)
    after = all_active(instance, ["test.mail.1"])["test.mail.1"]
    assert (after["epoch"], after["generation"]) == (held["epoch"] + 1, 2)


def test_a_deaf_cold_program_is_killed_with_its_daemon(instance: Instance, ledger: Ledger) -> None:
    pids = instance.project.root / "pids"
    program = (
        "import os, pathlib, signal, subprocess, sys, time; signal.signal(15, signal.SIG_IGN); "
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(3600)'], start_new_session=True, "
        "preexec_fn=lambda: signal.signal(15, signal.SIG_IGN)); "
        f"pathlib.Path({str(pids)!r}).write_text(f'{{os.getpid()}} {{child.pid}}'); time.sleep(3600)"
    )
    pool(instance.project, "tool", command=[sys.executable, "-c", program], stop_timeout=0.5, kill_timeout=0.3)
    instance.start()
    held = all_active(instance, ["test.tool.1"])["test.tool.1"]
    wait_for("it runs", pids.exists)
    mine = [int(pid) for pid in pids.read_text().split()]
    pids.unlink()
    assert act(instance, "test.tool.1", "restart").get("outcome") == "done"
    assert [pid for pid in mine if alive(pid)] == []
    assert row(instance, "test.tool.1")["epoch"] == held["epoch"] + 1


def test_a_killed_keeper_takes_its_program_along(instance: Instance, ledger: Ledger) -> None:
    pool(instance.project, "daemon", command=[sys.executable, SCRIPT, "daemon"])
    instance.start()
    held = all_active(instance, ["test.daemon.1"])["test.daemon.1"]
    wait_for("program and daemon beat", lambda: len({line.pid for line in ledger.lines()}) >= 2)
    os.kill(held["pid"], signal.SIGKILL)
    wait_for("another holder", lambda: (row(instance, "test.daemon.1")["epoch"] or 0) > held["epoch"])
    wait_for("it is at work", lambda: ledger.newest("test.daemon.1").epoch > held["epoch"])  # type: ignore[union-attr]
    assert breaches(ledger.lines(), 5.0) == []
    first = {line.pid for line in ledger.lines() if line.epoch == held["epoch"]}
    wait_for("nobody of the old holder lives", lambda: not any(alive(pid) for pid in first), 5.0)


def test_respawn_backs_off(instance: Instance, ledger: Ledger) -> None:
    pool(instance.project, "bad", target="apps.named:crashing", backoff=0.2, backoff_limit=0.8)
    pool(instance.project, "mail", target="apps.named:threaded")
    instance.project.config["restart"]["grace"] = 0.0
    instance.start()
    wait_for("six lives", lambda: sum(line.what == "enter" for line in ledger.lines() if "bad" in line.name) >= 6)
    pauses = [gap.seconds for gap in gaps(ledger.lines()) if gap.name == "test.bad.1"][:5]
    # The first replacement comes at once; what is measured also holds a fork and a boot.
    for pause, least in zip(pauses, [0.0, 0.2, 0.4, 0.8, 0.8], strict=True):
        assert least <= pause < least + 1.5, pauses
    assert row(instance, "test.mail.1")["state"] == "active"
    assert row(instance, "test.bad.1")["restarts"] >= 5


def test_stop_ends_every_handler(instance: Instance, ledger: Ledger) -> None:
    pool(instance.project, "mail", target="apps.named:threaded")
    pool(instance.project, "daemon", command=[sys.executable, SCRIPT, "daemon"], stop_timeout=2.0)
    instance.start()
    all_active(instance, ["test.mail.1", "test.daemon.1"])
    wait_for("all beat", lambda: len({line.pid for line in ledger.lines() if line.what == "beat"}) >= 3)
    assert instance.command("stop").code == 0
    wait_for("nothing is left", lambda: instance.processes() == [], 10.0)
    assert {line.name for line in ledger.lines() if line.what == "exit"} == {"test.mail.1", "test.daemon.1"}


# --- keeping a name -----------------------------------------------------------------------------------------


def test_a_busy_handler_keeps_its_name_while_the_others_move(instance: Instance, ledger: Ledger) -> None:
    pool(instance.project, "mail", target="apps.named:threaded", count=2)
    pool(instance.project, "long", target="apps.named:threaded", stop_timeout=0.3, keep_name=True)
    release = misbehave(instance.project, "busy", pool="long")
    names = ["test.mail.1", "test.mail.2", "test.long.1"]
    instance.start()
    before = all_active(instance, names)
    instance.project.deploy("good")
    said = instance.command("restart", "--json")
    assert said.code == KEPT, said
    found = rows(instance)
    kept = found["test.long.1"]
    assert (kept["pid"], kept["generation"], kept["state"]) == (before["test.long.1"]["pid"], 1, "releasing")
    assert "generation 1" in kept["note"]
    assert {found[name]["generation"] for name in names[:2]} == {2}
    assert "test.long.1" in said.out
    assert instance.live()["number"] == 2
    (release / "finish").touch()
    wait_for("it has moved", lambda: row(instance, "test.long.1")["generation"] == 2)
    assert all_active(instance, names)["test.long.1"]["epoch"] == kept["epoch"] + 1
    wait_for("the old generation has gone", lambda: len(instance.status()["generations"]) == 1)
    assert breaches(ledger.lines(), 5.0) == []


# --- commands for one handler -------------------------------------------------------------------------------


def test_list_pause_resume_restart_move(instance: Instance, ledger: Ledger) -> None:
    pool(instance.project, "mail", target="apps.named:threaded", count=2)
    names = ["test.mail.1", "test.mail.2"]
    instance.start()
    before = all_active(instance, names)
    other = before["test.mail.2"]

    assert instance.command("handlers", "restart", "test.mail.1").code == 0
    renewed = all_active(instance, names)["test.mail.1"]
    assert (renewed["epoch"], renewed["generation"]) == (before["test.mail.1"]["epoch"] + 1, 1)

    assert instance.command("handlers", "pause", "test.mail.1").code == 0
    assert row(instance, "test.mail.1")["state"] == "paused"
    wait_for("it has ended", lambda: not alive(renewed["pid"]))
    # A restart of everything leaves a paused name alone.
    assert restart(instance).get("outcome") == "done"
    assert row(instance, "test.mail.1")["state"] == "paused"
    assert instance.command("handlers", "resume", "test.mail.1").code == 0
    resumed = all_active(instance, names)["test.mail.1"]
    assert (resumed["epoch"], resumed["generation"]) == (renewed["epoch"] + 1, 2)

    assert instance.command("handlers", "move", "test.mail.2").code == 0
    listed = instance.command("handlers", "list", "--json").json["handlers"]
    assert {item["name"]: item["generation"] for item in listed} == dict.fromkeys(names, 2)
    assert row(instance, "test.mail.2")["epoch"] > other["epoch"]
    ledger_gaps = [gap for gap in gaps(ledger.lines()) if gap.name == "test.mail.2"]
    assert all(gap.seconds < 5.0 for gap in ledger_gaps)

    unknown = instance.command("handlers", "restart", "test.mail.9")
    assert unknown.code != 0 and "test.mail.9" in unknown.err and "Traceback" not in unknown.err


def test_a_standby_that_crashes_fails_the_command_and_leaves_the_holder(instance: Instance, ledger: Ledger) -> None:
    """The same code, but its surroundings have gone bad since."""
    pool(instance.project, "mail", target="apps.named:threaded")
    release = instance.project.deploy("first")
    instance.start()
    before = all_active(instance, ["test.mail.1"])["test.mail.1"]
    (release / "trouble").write_text('{"kind": "boot"}')
    said = instance.command("handlers", "restart", "test.mail.1", limit=20.0)
    assert said.code != 0 and "test.mail.1" in said.err + said.out, said
    assert row(instance, "test.mail.1")["pid"] == before["pid"] and alive(before["pid"])
    (release / "trouble").unlink()
    assert instance.command("handlers", "restart", "test.mail.1", limit=20.0).code == 0
    assert all_active(instance, ["test.mail.1"])["test.mail.1"]["epoch"] == before["epoch"] + 1


# --- restarts of parts --------------------------------------------------------------------------------------


def test_restart_web_keeps_the_handlers(instance: Instance, ledger: Ledger) -> None:
    pool(instance.project, "mail", target="apps.named:threaded", count=2)
    names = ["test.mail.1", "test.mail.2"]
    instance.start()
    before = all_active(instance, names)
    assert instance.command("restart", "--web").code == 0
    after = all_active(instance, names)
    assert [(after[name]["pid"], after[name]["epoch"]) for name in names] == [
        (before[name]["pid"], before[name]["epoch"]) for name in names
    ]
    assert instance.live()["number"] == 2 and _ask(instance.project.port)["generation"] == 2
    # The old generation goes on for its handlers, without web workers.
    assert instance.generation(1)["workers"] == []
    # One that ends is replaced there.
    os.kill(before["test.mail.1"]["pid"], signal.SIGKILL)
    wait_for("replaced", lambda: (row(instance, "test.mail.1")["epoch"] or 0) > before["test.mail.1"]["epoch"])
    assert restart(instance).get("outcome") == "done"
    assert {item["generation"] for item in all_active(instance, names).values()} == {3}
    wait_for("the old generations have gone", lambda: len(instance.status()["generations"]) == 1)


def test_restart_handlers_keeps_web_connections_and_generation(instance: Instance, ledger: Ledger) -> None:
    pool(instance.project, "mail", target="apps.named:threaded", count=2)
    names = ["test.mail.1", "test.mail.2"]
    instance.start()
    before, workers = all_active(instance, names), instance.workers()
    gate = instance.project.root / "open"
    connection = http.client.HTTPConnection("127.0.0.1", instance.project.port, timeout=30)
    connection.request("GET", "/gate?file=" + str(gate))
    assert instance.command("restart", "--handlers").code == 0
    gate.touch()
    with connection.getresponse() as response:
        answer = json.loads(response.read())
        assert answer["generation"] == 1 and response.headers.get("connection", "").lower() != "close"
    connection.close()
    assert instance.live()["number"] == 1 and instance.workers() == workers
    after = all_active(instance, names)
    assert {item["generation"] for item in after.values()} == {2}
    assert all(after[name]["epoch"] == before[name]["epoch"] + 1 for name in names)


def test_restart_of_one_pool(instance: Instance, ledger: Ledger) -> None:
    pool(instance.project, "mail", target="apps.named:threaded")
    pool(instance.project, "loop", target="apps.named:looped")
    instance.start()
    before = all_active(instance, ["test.mail.1", "test.loop.1"])
    assert instance.command("restart", "--pool", "loop").code == 0
    after = all_active(instance, ["test.mail.1", "test.loop.1"])
    assert after["test.mail.1"]["pid"] == before["test.mail.1"]["pid"]
    assert (after["test.loop.1"]["generation"], after["test.loop.1"]["epoch"]) == (
        2,
        before["test.loop.1"]["epoch"] + 1,
    )
    refused = instance.command("restart", "--pool", "nobody")
    assert refused.code != 0 and "nobody" in refused.err


# --- a dead zygote ------------------------------------------------------------------------------------------


def test_orphans_of_a_dead_zygote_keep_their_names_until_the_recovery(instance: Instance, ledger: Ledger) -> None:
    names = ["test.mail.1", "test.mail.2", "test.script.1"]
    pool(instance.project, "mail", target="apps.named:threaded", count=2)
    pool(instance.project, "script", script=SCRIPT)
    instance.start()
    before = all_active(instance, names)
    zygote = instance.live()["pid"]
    os.kill(zygote, signal.SIGKILL)
    wait_for("recovered", lambda: (instance.live()["pid"] or zygote) != zygote, 30.0)
    after = all_active(instance, names)
    assert all(after[name]["epoch"] == before[name]["epoch"] + 1 for name in names), (before, after)
    assert {item["generation"] for item in after.values()} == {2}
    wait_for("one generation", lambda: len(instance.status()["generations"]) == 1)
    assert breaches(ledger.lines(), 5.0) == []


def _ask(port: int) -> dict[str, Any]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    connection.request("GET", "/")
    with connection.getresponse() as response:
        found: dict[str, Any] = json.loads(response.read())
    connection.close()
    return found


def test_a_generation_that_goes_on_for_its_handlers_is_looked_after(instance: Instance, ledger: Ledger) -> None:
    """After a restart of the web alone its zygote is nobody's business but the handlers'."""
    name = "test.warm.1"
    pool(instance.project, "warm", target="apps.named:described")
    instance.start()
    old = all_active(instance, [name])[name]
    assert restart(instance, "web").get("outcome") == "done"
    os.kill(instance.generation(1)["pid"], signal.SIGKILL)
    os.kill(old["pid"], signal.SIGKILL)
    wait_for("a holder", lambda: (row(instance, name)["epoch"] or 0) > old["epoch"], 40.0)
    all_active(instance, [name])
    assert instance.live()["number"] == 2
