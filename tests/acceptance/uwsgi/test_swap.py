"""A site of uWSGI whose virtual environment has nothing installed: instar in uWSGI's place, then on its own file."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import urllib.request
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from harness.processes import MARK, kill_all
from harness.project import free_port
from harness.waiting import wait_for

INSTAR = Path(sys.executable).with_name("instar")

APPLICATION = """
import json, sys

try:
    import uwsgi
except ImportError:
    uwsgi = None

def make():
    def application(environ, start_response):
        start_response("200 OK", [("Content-Type", "application/json")])
        answer = {"prefix": sys.prefix, "path": environ["PATH_INFO"], "uwsgi": uwsgi is not None}
        return [json.dumps(answer).encode()]
    return application
"""

FORMATS = {
    "ini": "[uwsgi]\nhttp = {address}\nmodule = site_app:make()\nhome = venv\npythonpath = lib\n"
    "static-map = /static=files\nmule = work.py\n",
    "yml": "uwsgi:\n  http: {address}\n  module: site_app:make()\n  home: venv\n  pythonpath: lib\n"
    "  static-map: /static=files\n  mule: work.py\n",
    "xml": "<uwsgi><http>{address}</http><module>site_app:make()</module><home>venv</home><pythonpath>lib</pythonpath>"
    "<static-map>/static=files</static-map><mule>work.py</mule></uwsgi>",
    "json": '{{"uwsgi": {{"http": "{address}", "module": "site_app:make()", "home": "venv", "pythonpath": "lib", '
    '"static-map": "/static=files", "mule": ["work.py"]}}}}',
}


class Site:
    """The files, and what runs from them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.address = f"127.0.0.1:{free_port()}"
        self.output = folder / "output"
        self._mark = uuid.uuid4().hex
        inherited = {key: value for key, value in os.environ.items() if not key.startswith(("PYTEST", "COV", "UWSGI"))}
        self.environment = {**inherited, MARK: self._mark, "NO_COLOR": "1", "INSTAR_STATE_DIR": str(folder / "state")}
        (folder / "lib").mkdir()
        (folder / "lib/site_app.py").write_text(APPLICATION)
        (folder / "files").mkdir()
        (folder / "files/a.txt").write_text("static")
        (folder / "work.py").write_text("import time\nwhile True:\n    time.sleep(60)\n")
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder / "venv"], check=True)

    def write(self, kind: str) -> str:
        name = f"site.{kind}"
        (self.folder / name).write_text(FORMATS[kind].format(address=self.address))
        return name

    def start(self, *arguments: str) -> None:
        with self.output.open("wb") as output:
            subprocess.Popen(
                [str(INSTAR), *arguments], cwd=self.folder, env=self.environment, stdout=output, stderr=output
            )
        wait_for("the application answers", self._answers, 40)

    def _answers(self) -> bool:
        with contextlib.suppress(OSError):
            return bool(self.get("/"))
        return False

    def get(self, path: str) -> bytes:
        with urllib.request.urlopen(f"http://{self.address}{path}", timeout=10) as answer:
            body: bytes = answer.read()
        return body

    def command(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [str(INSTAR), *arguments], cwd=self.folder, env=self.environment, capture_output=True, text=True, timeout=60
        )

    def handlers(self) -> list[str]:
        found = json.loads(self.command("status", "--name", "site", "--json").stdout)["handlers"]
        return [item["name"] for item in found if item["state"] == "active"]


@pytest.fixture
def site(folder: Path) -> Iterator[Site]:
    running = Site(folder)
    try:
        yield running
    finally:
        kill_all(running._mark)
        if running.output.exists():
            print(running.output.read_text())


@pytest.mark.parametrize("kind", FORMATS)
def test_every_format_runs(site: Site, kind: str) -> None:
    name = site.write(kind)
    site.start("uwsgi", f"--{kind}", name)
    answer = json.loads(site.get("/some/path"))
    assert answer == {"prefix": str(site.folder / "venv"), "path": "/some/path", "uwsgi": True}
    assert site.get("/static/a.txt") == b"static"
    wait_for("the mule has its name", lambda: site.handlers() == ["main.mule.1"])
    assert site.command("stop", "--name", "site").returncode == 0


def test_a_file_without_an_option(site: Site) -> None:
    site.start("uwsgi", site.write("ini"))
    assert json.loads(site.get("/"))["uwsgi"]


def test_converted(site: Site, tmp_path: Path) -> None:
    done = site.command("convert", site.write("yml"), "-o", "instar.toml")
    assert done.returncode == 0, done.stderr
    # Outside `instar uwsgi` nothing is lent: the engine comes from the application's environment.
    lines = (site.folder / "instar.toml").read_text().splitlines(keepends=True)
    (site.folder / "instar.toml").write_text("".join(line for line in lines if not line.startswith("python = ")))
    (site.folder / "venv").rename(tmp_path / "venv")
    site.start("run")
    assert json.loads(site.get("/some/path")) == {"prefix": sys.prefix, "path": "/some/path", "uwsgi": False}
    assert site.get("/static/a.txt") == b"static"
    wait_for("the handler has its name", lambda: site.handlers() == ["main.mule.1"])


def test_a_broken_release_never_replaces_a_good_one(site: Site) -> None:
    site.start("uwsgi", "--ini", site.write("ini"))
    (site.folder / "lib/site_app.py").write_text("raise RuntimeError('broken')\n")
    done = site.command("restart", "--name", "site")
    assert (done.returncode, "RuntimeError: broken" in done.stdout + done.stderr) == (3, True)
    assert json.loads(site.get("/"))["path"] == "/"
