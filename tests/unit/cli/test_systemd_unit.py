"""`instar systemd-unit`: what systemd itself says of it, and what each line promises."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv("INSTAR_STATE_DIR", raising=False)
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "instar.toml"
    file.write_text('[app]\nname = "shop"\ntarget = "m:app"\n[web]\nbind = ["127.0.0.1:8000"]\n')
    return file


def lines_of(unit: str) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for line in unit.splitlines():
        if line and not line.startswith(("#", "[")):
            name, _, value = line.partition("=")
            found.setdefault(name, []).append(value)
    return found


@pytest.mark.parametrize("arguments", [[], ["--user", "daemon"]])
@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="needs systemd-analyze (apt install systemd)")
def test_systemd_finds_no_fault(settings: Path, run: Any, arguments: list[str]) -> None:
    code, unit, err = run("systemd-unit", *arguments)
    assert (code, err) == (0, "")
    file = settings.with_name("instar-test-shop.service")
    file.write_text(unit)
    checked = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(file)], capture_output=True, text=True, timeout=60, check=False
    )
    assert (checked.returncode, checked.stderr) == (0, "")


@pytest.mark.parametrize("arguments", [[], ["--user", "daemon"]])
def test_every_line_says_why(settings: Path, run: Any, arguments: list[str]) -> None:
    """A comment stands above each line, or above the group that it belongs to."""
    unit = run("systemd-unit", *arguments)[1]
    service = unit.partition("[Service]\n")[2].partition("\n\n[Install]")[0]
    for group in service.split("\n\n"):
        assert group.startswith("#"), group
    found = lines_of(unit)
    assert all(len(values) == 1 for name, values in found.items() if name != "Environment"), found


def test_what_keeps_the_application_alive(settings: Path, run: Any) -> None:
    found = lines_of(run("systemd-unit")[1])
    program = str(Path(sys.executable).with_name("instar"))
    assert found["ExecStart"] == [f"{program} run -c {settings}"]
    assert found["ExecReload"] == [f"{program} restart -c {settings}"]
    assert found["ExecStopPost"] == [f"{program} cleanup --after-stop -c {settings}"]
    # `control-group` and `mixed` would kill the generation of a supervisor that crashed.
    assert found["KillMode"] == ["process"]
    assert found["Type"] == ["notify"]
    assert "PrivateTmp" not in found


def test_another_user(settings: Path, run: Any) -> None:
    found = lines_of(run("systemd-unit", "--user", "shop")[1])
    assert found["User"] == ["shop"]
    assert found["StateDirectory"] == ["shop"]
    assert found["CapabilityBoundingSet"] == [""]
    assert "INSTAR_STATE_DIR=/var/lib/shop" in found["Environment"]
    settings.write_text(settings.read_text().replace("8000", "80"))
    found = lines_of(run("systemd-unit", "--user", "shop")[1])
    assert found["AmbientCapabilities"] == ["CAP_NET_BIND_SERVICE"]


def test_words_that_systemd_would_expand(tmp_path: Path, settings: Path, run: Any) -> None:
    folder = tmp_path / "50% $HOME it's"
    folder.mkdir()
    file = folder / "instar.toml"
    file.write_text(settings.read_text())
    found = lines_of(run("systemd-unit", "-c", str(file))[1])
    assert found["ExecReload"][0].endswith(f'restart -c "{tmp_path}/50%% $$HOME it\'s/instar.toml"')


def test_a_home_that_is_used_stays(tmp_path: Path, settings: Path, run: Any) -> None:
    settings.write_text(settings.read_text() + '[app.env]\n[log]\nfile = "/home/shop/log"\n')
    unit = run("systemd-unit")[1]
    assert "ProtectHome" not in lines_of(unit)
    assert "Not set: ProtectHome, because /" in unit


def test_what_it_refuses(settings: Path, run: Any) -> None:
    code, _, err = run("systemd-unit", "-c", "missing.toml")
    assert code == 2
    assert "missing.toml" in err
    settings.write_text(settings.read_text().replace('target = "m:app"', 'target = "m:app"\nuser = "nobody"'))
    code, _, err = run("systemd-unit", "--user", "shop")
    assert code == 2
    assert "drop one of the two" in err
