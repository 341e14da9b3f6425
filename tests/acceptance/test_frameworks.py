"""A stock Django project and a FastAPI application, unmodified, through restarts under load."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
from harness.instance import Instance
from harness.project import Project
from harness.promise import breathe

from load.ledger import Outcome, Report
from load.process import LoadProcess

RESTARTS = [2, pytest.param(5, marks=[pytest.mark.long, pytest.mark.timeout(600)])]
PASSWORD = "correct horse battery staple"


def restart_under_load(instance: Instance, clients: dict[str, dict[str, object]], restarts: int) -> Report:
    project = instance.project
    load = LoadProcess(project.root, project.target, clients, keep_alive=project.config["web"]["keep_alive"])
    with load:
        for _ in range(restarts):
            breathe()
            handover = instance.handover()
            assert handover.result()["outcome"] == "done", handover.story()
        breathe()
        report = load.stop()
    assert not report.select(Outcome.FAILED, Outcome.CLOSED_IDLE), report.table()
    for client in clients:
        assert report.count(client) > restarts, report.table()
    instance.settled(restarts + 1)
    return report


@pytest.mark.parametrize("restarts", RESTARTS)
def test_stock_django_project(project: Project, instance: Instance, restarts: int) -> None:
    site = project.root / "site"
    site.mkdir()
    manage(site, "-m", "django", "startproject", "mysite", ".")
    manage(site, "manage.py", "migrate")
    manage(site, "manage.py", "createsuperuser", "--no-input", "--username", "admin", "--email", "a@example.org")
    import django.contrib.admin

    admin_static = Path(django.contrib.admin.__file__).parent / "static" / "admin"
    project.config["app"] = {"name": "django", "target": "mysite.wsgi:application", "chdir": str(site)}
    project.config["web"] |= {"static": {"/static/admin": str(admin_static)}, "threads": 6}
    project.config["health"] = {"path": "/admin/login/"}
    instance.start()
    base = f"http://127.0.0.1:{project.port}"
    with httpx.Client(base_url=base, follow_redirects=True) as browser:
        cookies = log_in(browser)
        assert browser.get("/static/admin/css/base.css").status_code == 200
    cookie = f"Cookie: sessionid={cookies['sessionid']}"
    logged_in = {"path": "/admin/", "expect": "Site administration", "headers": [cookie]}
    clients: dict[str, dict[str, object]] = {
        "page": {**logged_in, "pause": 0.05, "count": 2},
        "pageidle": {**logged_in, "kind": "page", "pause": 1.5, "count": 4},
        "newpage": {"path": "/admin/login/", "expect": "csrfmiddlewaretoken", "pause": 0.05},
        "css": {"kind": "page", "path": "/static/admin/css/base.css", "expect": "body", "pause": 0.5, "count": 2},
    }
    restart_under_load(instance, clients, restarts)
    # The session has outlived every process that knew it; a write works, too.
    with httpx.Client(base_url=base, follow_redirects=True, cookies=cookies) as browser:
        assert "Site administration" in browser.get("/admin/").text
        add_group(browser)


def manage(site: Path, *arguments: str) -> None:
    environment = {**os.environ, "DJANGO_SUPERUSER_PASSWORD": PASSWORD}
    subprocess.run([sys.executable, *arguments], cwd=site, env=environment, check=True, capture_output=True, timeout=60)


def token(page: str) -> str:
    found = re.search(r'name="csrfmiddlewaretoken" value="([^"]+)"', page)
    assert found is not None
    return found[1]


def log_in(browser: httpx.Client) -> httpx.Cookies:
    form = {
        "csrfmiddlewaretoken": token(browser.get("/admin/login/").text),
        "username": "admin",
        "password": PASSWORD,
        "next": "/admin/",
    }
    answer = browser.post("/admin/login/", data=form)
    assert "Site administration" in answer.text, answer.text[:500]
    return browser.cookies


def add_group(browser: httpx.Client) -> None:
    page = browser.get("/admin/auth/group/add/").text
    answer = browser.post("/admin/auth/group/add/", data={"csrfmiddlewaretoken": token(page), "name": "moulters"})
    assert "was added successfully" in answer.text, answer.text[:500]


FASTAPI = '''
"""An ordinary FastAPI application."""
import asyncio
from contextlib import asynccontextmanager

from fastapi import FastAPI, WebSocket
from fastapi.responses import StreamingResponse
from pydantic import BaseModel


@asynccontextmanager
async def lifespan(app):
    app.state.items = {1: "one"}
    yield


app = FastAPI(lifespan=lifespan)


class Item(BaseModel):
    name: str
    price: float = 1.0


@app.get("/")
async def root():
    return {"message": "hello"}


@app.get("/sync/{number}")
def sync(number: int):
    return {"number": number}


@app.post("/items")
async def create(item: Item):
    return item


@app.get("/events")
async def events():
    async def ticks():
        while True:
            yield "data: tick\\n\\n"
            await asyncio.sleep(0.1)

    return StreamingResponse(ticks(), media_type="text/event-stream")


@app.websocket("/ws")
async def echo(websocket: WebSocket):
    await websocket.accept()
    while True:
        await websocket.send_text(await websocket.receive_text() + " 0 0")
'''


@pytest.mark.parametrize("restarts", RESTARTS)
@pytest.mark.parametrize("engine", ["granian", "uvicorn"])
def test_fastapi_application(project: Project, instance: Instance, engine: str, restarts: int) -> None:
    site = project.root / "site"
    site.mkdir()
    (site / "main.py").write_text(FASTAPI)
    project.config["app"] = {"name": "fastapi", "target": "main:app", "chdir": str(site)}
    project.config["web"]["engine"] = engine
    project.config["health"] = {"path": "/"}
    instance.start()
    base = f"http://127.0.0.1:{project.port}"
    assert httpx.post(f"{base}/items", json={"name": "a"}).json() == {"name": "a", "price": 1.0}
    assert httpx.post(f"{base}/items", json={}).status_code == 422
    clients: dict[str, dict[str, object]] = {
        "page": {"path": "/", "expect": "hello", "pause": 0.02, "count": 2},
        "pageidle": {"kind": "page", "path": "/", "expect": "hello", "pause": 1.5, "count": 4},
        "newpage": {"path": "/sync/7", "expect": '"number":7', "pause": 0.02},
        "sse": {"count": 2},
        "websocket": {"count": 2},
    }
    report = restart_under_load(instance, clients, restarts)
    assert report.notes.get("websocket: closed 1012"), report.table()
    assert report.notes.get("sse: ended by the server"), report.table()
