"""The files of examples/deploy: what can be said of them without Docker, Kubernetes and systemd."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from instar.config import load
from instar.control.unit import UnitOptions, unit

DEPLOY = Path(__file__).parents[3] / "examples/deploy"


def container() -> dict[str, Any]:
    deployment, _ = yaml.safe_load_all((DEPLOY / "kubernetes.yml").read_text())
    found: dict[str, Any] = deployment["spec"]["template"]["spec"]
    return found


def test_the_unit_is_the_commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`instar systemd-unit -c /srv/shop/instar.toml --user shop`, of an instar in /opt/instar."""
    monkeypatch.setattr(sys, "base_prefix", "/usr")
    shutil.copy(DEPLOY / "instar.toml", tmp_path)
    monkeypatch.chdir(tmp_path)
    options = UnitOptions(("/opt/instar/bin/instar",), Path("/srv/shop/instar.toml"), "shop")
    assert unit(load(tmp_path / "instar.toml"), options) == (DEPLOY / "instar.service").read_text()


def test_a_container_gets_the_time_that_a_drain_needs(tmp_path: Path) -> None:
    drain = load(DEPLOY / "instar.toml").restart.drain_timeout
    [shop] = yaml.safe_load((DEPLOY / "compose.yml").read_text())["services"].values()
    assert int(shop["stop_grace_period"].removesuffix("s")) > drain
    pod = container()
    wait = int(pod["containers"][0]["lifecycle"]["preStop"]["exec"]["command"][1])
    assert pod["terminationGracePeriodSeconds"] > wait + drain


def test_the_probes_ask_for_what_is_there() -> None:
    pod = container()
    [shop] = pod["containers"]
    names = {port["name"] for port in shop["ports"]}
    for probe in ("startupProbe", "readinessProbe"):
        assert shop[probe]["httpGet"]["port"] in names
        assert shop[probe]["httpGet"]["path"] in (DEPLOY / "shop.py").read_text()
    mounts = {mount["name"] for mount in shop["volumeMounts"]}
    assert mounts == {volume["name"] for volume in pod["volumes"]}
    assert shop["livenessProbe"]["exec"]["command"][1] == "status"


def test_the_image_starts_instar_itself() -> None:
    """Each file that it copies is there, and no shell stands between the signals and instar."""
    lines = (DEPLOY / "Dockerfile").read_text().splitlines()
    [copied] = [line.split()[1:-1] for line in lines if line.startswith("COPY")]
    assert all((DEPLOY / name).is_file() for name in copied)
    assert lines[-1] == 'CMD ["/opt/instar/bin/instar", "run", "-c", "/app/instar.toml"]'
