"""The restarter's configuration: the main file without what may exist only once."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from instar.config.formats.uwsgi import Surroundings, UwsgiConfig, read
from instar.errors import InstarError
from instar.uwsgi.emperor.backstage import Backstage
from instar.uwsgi.emperor.galaxy import handler_names, rewrite
from instar.uwsgi.emperor.restarter import derive


@pytest.fixture
def short() -> Iterator[Path]:
    """A folder whose UNIX sockets have short paths, however long the test's name is."""
    with tempfile.TemporaryDirectory(prefix="instar-") as name:
        yield Path(name)


MAIN = """uwsgi:
  master-fifo: {d}/new.fifo
  master-fifo: {d}/running.fifo
  zerg: {d}/pool.sock
  hook-accepting1-once: writefifo:{d}/running.fifo 2q
  hook-post-app: spinningfifo:{d}/new.fifo 1
  hook-pre-app: exec:true
  chdir: {d}
  yaml: {d}/galaxy.yml
"""
GALAXY = """uwsgi:
  socket: 127.0.0.1:0
  http-socket: 127.0.0.1:8000
  stats: 127.0.0.1:9191
  pidfile: /run/x.pid
  set-placeholder: share=50%%
  env: SHARE=%(share) of it
  module: app:build()
  need-app: {need}
  mule: main.py
  mule: main.py
  mule: main.py
  farm: job-handlers:1,3
  farm: job-handlers.special:2,1
galaxy:
  id_secret: "a#b"
{more}
"""
JOB_CONF = """<job_conf>
  <plugins><plugin id="slurm" type="runner" load="galaxy.jobs.runners.slurm:SlurmJobRunner"/></plugins>
  <handlers assign_with="db-skip-locked" max_grab="4"><handler id=""/><handler id="special.0" tags="x"/></handlers>
  <destinations><destination id="slurm" runner="slurm"/></destinations>
</job_conf>
"""


def site(folder: Path, *, need: str = "true", more: str = "  job_config_file: job_conf.xml") -> UwsgiConfig:
    (folder / "main.yml").write_text(MAIN.format(d=folder))
    (folder / "galaxy.yml").write_text(GALAXY.format(d=folder, need=need, more=more))
    (folder / "job_conf.xml").write_text(JOB_CONF)
    return read("main.yml", surroundings=Surroundings(cwd=folder))


def pairs(text: str, folder: Path) -> list[tuple[str, str]]:
    """What uWSGI would read of it."""
    (folder / "derived.ini").write_text(text)
    return [(item.key, item.value) for item in read("derived.ini", surroundings=Surroundings(cwd=folder))]


def test_what_may_exist_only_once_is_left_out(tmp_path: Path) -> None:
    text = derive(site(tmp_path), Path("/p/restarter"), {"galaxy_config_file": "/p/galaxy.yml"})
    assert pairs(text, tmp_path) == [
        ("zerg", f"{tmp_path}/pool.sock"),
        ("hook-pre-app", "exec:true"),
        ("chdir", str(tmp_path)),
        ("socket", "127.0.0.1:0"),
        ("share", "50%"),
        ("env", "SHARE=50% of it"),
        ("module", "app:build()"),
        ("need-app", "true"),
        ("master", "true"),
        ("http-socket", "/p/restarter"),
        ("galaxy_config_file", "/p/galaxy.yml"),
    ]


def test_a_rehearsal_is_not_attached(tmp_path: Path) -> None:
    text = derive(site(tmp_path), Path("/p/restarter"), attached=False)
    assert "zerg" not in dict(pairs(text, tmp_path))


def test_need_app_can_be_switched_off(tmp_path: Path) -> None:
    text = derive(site(tmp_path, need="false"), Path("/p/restarter"))
    assert [value for key, value in pairs(text, tmp_path) if key == "need-app"] == ["false"]


def test_names_are_those_of_galaxy(tmp_path: Path) -> None:
    # Mule 1 is in two farms: the first one names it.
    assert handler_names(site(tmp_path)) == {
        "main.job-handlers.1": "",
        "main.job-handlers.2": "",
        "main.job-handlers.special.1": "special",
    }


def test_jobs_wait_for_the_handlers_by_name(tmp_path: Path, short: Path) -> None:
    options = site(tmp_path)
    backstage = Backstage(short, "main.yml")
    backstage.prepare(options)
    extra = rewrite(options, tmp_path, backstage)
    section = yaml.safe_load(Path(extra["galaxy_config_file"]).read_text())["galaxy"]
    assert section["id_secret"] == "a#b"
    root = ET.parse(section["job_config_file"]).getroot()  # noqa: S314
    handlers = root.find("handlers")
    assert handlers is not None
    assert handlers.attrib == {"assign_with": "db-preassign", "max_grab": "4"}
    assert [(item.get("id"), item.get("tags")) for item in handlers] == [
        ("special.0", "x"),
        ("main.job-handlers.1", None),
        ("main.job-handlers.2", None),
        ("main.job-handlers.special.1", "special"),
    ]
    assert root.find("destinations/destination") is not None
    # The user's own files are as they were.
    assert (tmp_path / "job_conf.xml").read_text() == JOB_CONF


@pytest.mark.parametrize("inline", [True, False])
def test_job_configuration_in_yaml(tmp_path: Path, short: Path, inline: bool) -> None:
    jobs = "{handling: {assign: [db-skip-locked], processes: {'': null}}, runners: {local: {load: x}}}"
    more = f"  job_config: {jobs}" if inline else "  job_config_file: jobs.yml"
    (tmp_path / "jobs.yml").write_text(jobs)
    options = site(tmp_path, more=more)
    backstage = Backstage(short, "main.yml")
    backstage.prepare(options)
    extra = rewrite(options, tmp_path, backstage)
    section = yaml.safe_load(Path(extra["galaxy_config_file"]).read_text())["galaxy"]
    found = section["job_config"] if inline else yaml.safe_load(Path(section["job_config_file"]).read_text())
    assert found["handling"]["assign"] == ["db-preassign"]
    assert set(found["handling"]["processes"]) == set(handler_names(options))
    assert found["runners"] == {"local": {"load": "x"}}


def test_a_site_that_is_not_galaxy_gets_nothing(tmp_path: Path, short: Path) -> None:
    options = site(tmp_path)
    (tmp_path / "galaxy.yml").write_text("uwsgi:\n  x: 1\nother: {}\n")
    assert rewrite(options, tmp_path, Backstage(short, "main.yml")) == {}


def test_a_job_configuration_that_is_broken_is_told(tmp_path: Path, short: Path) -> None:
    options = site(tmp_path)
    (tmp_path / "job_conf.xml").write_text("<job_conf>")
    with pytest.raises(InstarError, match="cannot give the handlers' names to the restarter"):
        rewrite(options, tmp_path, Backstage(short, "main.yml"))


def test_files_are_not_written_through_links(tmp_path: Path, short: Path) -> None:
    backstage = Backstage(short, "main.yml")
    backstage.prepare(UwsgiConfig(()))
    (tmp_path / "precious").write_text("x")
    (backstage.folder / "galaxy.yml.new").symlink_to(tmp_path / "precious")
    backstage.write("galaxy.yml", "y")
    assert (tmp_path / "precious").read_text() == "x"
    assert (backstage.folder / "galaxy.yml").stat().st_mode & 0o777 == 0o640


def test_a_path_that_uwsgi_would_refuse_is_told(tmp_path: Path) -> None:
    with pytest.raises(InstarError, match="longer than 102 bytes"):
        Backstage(tmp_path / ("x" * 100), "main.yml").prepare(UwsgiConfig(()))


def test_the_real_uwsgi_reads_it_the_same_way(tmp_path: Path) -> None:
    uwsgi = Path(sys.executable).with_name("uwsgi")
    if not uwsgi.exists():
        pytest.skip("no uWSGI beside the interpreter: pip install uwsgi (needs a C compiler)")
    (tmp_path / "derived.ini").write_text(derive(site(tmp_path), Path("/p/restarter")))
    done = subprocess.run(
        [uwsgi, "--ini", "derived.ini", "--show-config", "--clock", "nosuch"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=20,
    )
    assert "env = SHARE=50% of it" in done.stderr
    assert "http-socket = /p/restarter" in done.stderr
