"""What a supervisor that died has left is ended when nobody is going to adopt it (`instar cleanup`)."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from harness.instance import Instance
from harness.processes import alive


def test_it_is_for_the_next_one_unless_there_is_none(instance: Instance, monkeypatch: pytest.MonkeyPatch) -> None:
    instance.start()
    zygote, workers = instance.live()["pid"], instance.workers()
    # While a supervisor runs, nothing is touched.
    said = instance.command("cleanup")
    assert said.code == 4, said
    instance.kill_supervisor()
    # systemd says how it ended (systemd.exec(5)); it is going to start the next one.
    monkeypatch.setenv("SERVICE_RESULT", "signal")
    said = instance.command("cleanup", "--after-stop", "--json")
    assert (said.code, said.json["ended"]) == (0, None), said
    assert alive(zygote)
    instance.start()
    assert instance.live()["pid"] == zygote
    instance.kill_supervisor()

    # After `systemctl stop`: the supervisor died of it before it could do anything.
    monkeypatch.setenv("SERVICE_RESULT", "success")
    said = instance.command("cleanup", "--after-stop", "--json")
    assert (said.code, said.json["ended"]) == (0, 1), said
    assert not any(map(alive, [zygote, *workers]))
    said = instance.command("cleanup", "--json")
    assert (said.code, said.json["ended"]) == (0, None), said
    instance.start()
    assert instance.live()["number"] == 2


def test_a_supervisor_that_crashed_on_its_way_out(instance: Instance, monkeypatch: pytest.MonkeyPatch) -> None:
    """There is no next one, whatever systemd says; and the configuration is broken by now."""
    instance.start()
    zygote = instance.live()["pid"]
    instance.kill_supervisor()
    journal: Path = instance.state_dir / "control/journal.jsonl"
    last = json.loads(journal.read_text().splitlines()[-1])
    with journal.open("a") as file:
        file.write(json.dumps({"seq": last["seq"] + 1, "time": last["time"], "op": "stopping", "now": False}) + "\n")
    file = instance.project.config_file
    file.write_text(file.read_text() + "\n[nonsense]\n")
    monkeypatch.setenv("SERVICE_RESULT", "timeout")
    said = instance.command("cleanup", "--after-stop")
    assert (said.code, said.out) == (0, "ended generation 1\n"), said
    assert not alive(zygote)
