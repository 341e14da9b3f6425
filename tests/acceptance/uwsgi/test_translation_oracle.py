"""One file under the real uWSGI and under instar: the same folder, module path, environment and static files."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import urllib.error
import urllib.request
import uuid
from pathlib import Path
from typing import Any

import pytest
from harness.processes import MARK, kill_all
from harness.project import free_port
from harness.waiting import wait_for

from oracle.uwsgi import needs_uwsgi, program

INSTAR_UWSGI = Path(sys.executable).with_name("instar-uwsgi")

APPLICATION = """
import json, os, sys

def application(environ, start_response):
    start_response("200 OK", [("Content-Type", "application/json")])
    path = [os.path.realpath(entry) for entry in sys.path if not entry.endswith(".zip")]
    seen = {
        "cwd": os.getcwd(),
        "path": list(dict.fromkeys(entry for entry in path if entry.startswith(os.environ["SITE"]))),
        "environment": {name: os.environ.get(name) for name in ("A", "B", "OUTSIDE")},
        "script": environ["SCRIPT_NAME"],
        "url": environ["PATH_INFO"],
        "threads": environ["wsgi.multithread"],
    }
    return [json.dumps(seen).encode()]
"""

LINES = """[uwsgi]
master = true
here = %d
chdir = app
module = site_app
pythonpath = lib
pythonpath = libs/*
pythonpath = %(here)extra
env = A=1
env = A=2
env = B=x=y
static-map = /static=static
static-map = /static/sub=public
static-map2 = /media=other
check-static = public
threads = 2
"""

FILES = ["app/static/a.txt", "app/static/sub/b.txt", "app/other/media/x/m.txt", "app/public/p.txt", "app/public/i.html"]
FOLDERS = ["libs/three", "app/libs/one", "app/lib", "extra"]
URLS = [
    "/",
    "/static",
    "/static/",
    "/staticx",
    "/static/a.txt",
    "/static/none",
    "/static/sub",
    "/static/sub/b.txt",
    "/static/sub/p.txt",
    "/media/m.txt",
    "/media/x/m.txt",
    "/p.txt",
    "/%70.txt",
    "/i.html",
    "/static/../../site_app.py",
]


@pytest.fixture
def site(folder: Path) -> Path:
    for name in FILES:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(f"the file {name}")
    for name in FOLDERS:
        (folder / name).mkdir(parents=True)
    (folder / "app/site_app.py").write_text(APPLICATION)
    (folder / "site.ini").write_text(LINES)
    return folder


def answers(site: Path, command: str | Path) -> dict[str, Any]:
    """What each URL gives: a file's text, or what the application sees."""
    port, mark = free_port(), uuid.uuid4().hex
    inherited = {key: value for key, value in os.environ.items() if not key.startswith(("PYTEST", "COV", "UWSGI"))}
    more = {MARK: mark, "INSTAR_STATE_DIR": str(site / "state"), "SITE": str(site.resolve()), "OUTSIDE": "seen"}
    argv = [str(command), "--ini", "site.ini", "--http-socket", f"127.0.0.1:{port}", "--home", sys.prefix]
    with (site / "output").open("wb") as output:
        process = subprocess.Popen(argv, cwd=site, env={**inherited, **more}, stdout=output, stderr=output)
    try:
        wait_for("it answers", lambda: _get(port, "/"), 40)
        found = {url: _get(port, url) for url in URLS}
        process.send_signal(signal.SIGINT)
        process.wait(20)
    finally:
        kill_all(mark)
        print((site / "output").read_text(errors="replace")[-3000:])
    return found


def _get(port: int, url: str) -> Any:
    with (
        contextlib.suppress(ConnectionError, urllib.error.URLError),
        urllib.request.urlopen(f"http://127.0.0.1:{port}{url}", timeout=10) as answer,
    ):
        text = answer.read().decode()
        return text if text.startswith("the file") else json.loads(text)
    return None


@needs_uwsgi
def test_the_same_for_the_application(site: Path) -> None:
    theirs, ours = answers(site, program() or ""), answers(site, INSTAR_UWSGI)
    # uWSGI resolves `..` before the application sees it.
    assert theirs.pop(URLS[-1])["url"] == "/site_app.py"
    assert ours.pop(URLS[-1])["url"] == URLS[-1]
    assert ours == theirs
