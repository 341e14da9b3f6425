"""`uwsgi:` binds behind a real nginx: restarts lose nothing, and HTTP binds work beside them."""

from __future__ import annotations

import contextlib
import http.client
import json
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest
from harness.engines import http1, light
from harness.instance import Instance
from harness.nginx import nginx
from harness.project import Project, free_port
from harness.promise import breathe
from harness.uwsgi_binary import program, uwsgi
from harness.waiting import wait_for

from load.ledger import Outcome
from load.process import LoadProcess
from load.target import Target

#: No second try: it would hide a failure.
LOCATIONS = """
        uwsgi_next_upstream off;
        location / { uwsgi_pass ours; }
        # What is not buffered must get through in pieces, both ways.
        location /events { uwsgi_pass ours; uwsgi_buffering off; }
        location /upload { uwsgi_pass ours; uwsgi_request_buffering off; }
"""


@pytest.mark.parametrize("restarts", [1, pytest.param(10, marks=[pytest.mark.long, pytest.mark.timeout(900)])])
@pytest.mark.parametrize("steering", ["steered", "shared"])
def test_restarts_behind_nginx_lose_nothing(project: Project, instance: Instance, steering: str, restarts: int) -> None:
    places = [f"127.0.0.1:{free_port()}", f"unix:{project.root}/u.sock"]
    project.config["app"]["target"] = "apps.wsgi:app"
    project.config["web"]["bind"] += [f"uwsgi:{place}" for place in places]
    project.config["web"] |= {"threads": 24, "steering": steering}
    instance.start()
    clients = http1(project)
    upstream = f"upstream ours {{ {' '.join(f'server {place} max_fails=0;' for place in places)} }}"
    with nginx(project.root / "nginx", LOCATIONS, upstream) as front:
        load = LoadProcess(project.root, Target(port=front.port), clients, keep_alive=3600.0)
        # The same workers serve HTTP meanwhile.
        direct = LoadProcess(project.root / "direct", project.target, {"new": {}, "busy": {}, "idle": {}})
        with load, direct:
            for number in range(restarts):
                breathe()
                project.deploy(f"release{number}")
                instance.handover().switch()
            breathe()
            reports = [load.stop(), direct.stop()]
        complaints = front.complaints()
    for report in reports:
        assert not report.failures, report.table()
        assert not report.select(Outcome.CLOSED_IDLE), report.table()
        assert report.generations() == set(range(1, restarts + 2)), report.table()
    assert complaints == []
    instance.settled(restarts + 1)


# --- the same requests through the same nginx, to the real uWSGI and to ours ---


class Twins:
    """Sends a request to both."""

    def __init__(self, port: int) -> None:
        self.port = port

    def ask(self, side: str, method: str, path: str, body: Any = None, **headers: str) -> tuple[int, dict, bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        with contextlib.closing(connection):
            connection.request(method, f"/{side}/{path}", body=body, headers=headers)
            response = connection.getresponse()
            return response.status, {name.lower(): value for name, value in response.getheaders()}, response.read()

    def environ(self, side: str, method: str, path: str, body: Any = None, **headers: str) -> dict[str, Any]:
        """What the application got, but for what differs with the connection and what is uWSGI's own."""
        status, _, text = self.ask(side, method, path, body() if callable(body) else body, **headers)
        assert status == 200, (side, status, text)
        answer = json.loads(text.replace(f"/{side}".encode(), b"/side"))
        names = [name for name in answer["environ"] if name == "REMOTE_PORT" or name.startswith("uwsgi.")]
        for name in names:
            del answer["environ"][name]
        return answer


#: Lines of a location beside the usual ones.
VARIANTS = {
    "plain": "",
    "params": "uwsgi_param HTTPS on; uwsgi_param REMOTE_USER me; uwsgi_param OWN $host; uwsgi_request_buffering off;",
    "scheme": "uwsgi_param UWSGI_SCHEME https; uwsgi_param SCRIPT_NAME /mounted;",
    "modifier": "uwsgi_modifier1 30; uwsgi_param SCRIPT_NAME /SIDE;",
}


@pytest.fixture
def twins(project: Project, instance: Instance) -> Iterator[Twins]:
    """Both servers behind one nginx."""
    sides = {side: f"unix:{project.root}/{side}.sock" for side in ("ours", "real")}
    project.config["app"]["target"] = "apps.environ:app"
    project.config["web"] |= {"threads": 2, "workers": 1, "bind": [f"uwsgi:{sides['ours']}"]}
    project.config["web.uwsgi"] = {"buffer_size": "8K"}
    locations = "\n".join(
        f"location /{side}/{name} {{ include uwsgi_params; uwsgi_pass {where}; {lines.replace('SIDE', side)} }}"
        for side, where in sides.items()
        for name, lines in VARIANTS.items()
    )
    with uwsgi(project.root / "real.sock", "apps.environ:app", "--threads", "2", "--buffer-size", "65535"):
        instance.start()
        with nginx(project.root / "nginx", locations) as front:
            yield Twins(front.port)


REQUESTS: list[tuple[str, str, Any, dict[str, str]]] = [
    ("GET", "p", None, {}),
    ("GET", "a%20b/%65nv/%C3%A9/%2F?q=%20x&y=%C3%A9", None, {}),
    ("GET", "p", None, {"Cookie": "a=b; c=d", "X-Name": "v" * 3000, "Host": "other.example:81"}),
    ("GET", "p", None, {"X-Forwarded-Proto": "https", "X-Forwarded-For": "192.0.2.1", "X_Under": "dropped"}),
    ("GET", "p", None, {"X-Forwarded-SSL": "on"}),
    ("POST", "p", b"x" * 100, {"Content-Type": "text/plain"}),
    ("PUT", "p", b"y" * 3_000_000, {}),
    ("DELETE", "p", None, {}),
    ("POST", "p", lambda: iter([b"chunk", b"ed"]), {}),
    ("POST", "p", b"", {}),
]


def test_the_environ_is_that_of_the_real_uwsgi(twins: Twins) -> None:
    for variant in VARIANTS:
        for method, path, body, headers in REQUESTS:
            ours, real = (
                twins.environ(side, method, f"{variant}/{path}", body, **headers) for side in ("ours", "real")
            )
            assert ours == real, (variant, method, path)


def test_answers_are_those_of_the_real_uwsgi_or_better(twins: Twins) -> None:
    for path in ("plain/empty", "plain/file"):
        for method in ("GET", "HEAD"):
            ours, real = (twins.ask(side, method, path) for side in ("ours", "real"))
            assert (ours[0], ours[2]) == (real[0], real[2])
            assert {**ours[1], "date": ""} == {**real[1], "date": ""}
    # The real one sends nothing, and nginx makes that a 502.
    assert [twins.ask(side, "GET", "plain/raises")[0] for side in ("ours", "real")] == [500, 502]
    # The real one closes without a word.
    large = {"X-One": "1" * 5000, "X-Two": "2" * 5000}
    assert twins.ask("ours", "POST", "plain/p", bytes(3_000_000), **large)[0] == 431
    # The real one does not read it either: the kernel resets the connection under nginx.
    assert twins.ask("ours", "POST", "plain/unread", bytes(20_000_000))[::2] == (200, b"unread\n")


def test_an_asgi_application_is_refused_with_a_sentence(project: Project, instance: Instance) -> None:
    project.config["web"]["bind"] = [f"uwsgi:127.0.0.1:{free_port()}"]
    with pytest.raises(AssertionError, match=r"cannot serve an ASGI application on uwsgi:127.0.0.1:"):
        instance.start()


# --- the real uWSGI as the engine ---


@pytest.mark.parametrize(
    ("steering", "restarts"),
    [
        ("steered", 1),
        pytest.param("shared", 3, marks=pytest.mark.long),
        pytest.param("steered", 10, marks=[pytest.mark.long, pytest.mark.timeout(900)]),
    ],
)
def test_restarts_of_the_real_uwsgi_lose_nothing(
    project: Project, instance: Instance, steering: str, restarts: int
) -> None:
    program()
    where = f"127.0.0.1:{free_port()}"
    project.config["app"]["target"] = "apps.wsgi:app"
    project.config["web"]["bind"] += [f"uwsgi:{where}"]
    project.config["web"] |= {"threads": 24, "engine": "uwsgi", "steering": steering}
    instance.start()
    # It reads an HTTP request only when the whole head is there, and closes after each response.
    direct = {"new": {"count": 2, "pause": 0.01}, "static": {"sha256": project.static_sha256, "pause": 0.05}}
    upstream = f"upstream ours {{ server {where} max_fails=0; }}"
    with nginx(project.root / "nginx", LOCATIONS, upstream) as front:
        clients = {**light(), "upload": {}} if restarts == 1 else http1(project)
        behind = LoadProcess(project.root, Target(port=front.port), clients, keep_alive=3600.0)
        with behind, LoadProcess(project.root / "direct", project.target, direct) as http:
            for number in range(restarts):
                breathe()
                project.deploy(f"release{number}")
                instance.handover().switch()
            breathe()
            reports = [behind.stop(), http.stop()]
        complaints = front.complaints()
    for report in reports:
        assert not report.failures, report.table()
        assert not report.select(Outcome.CLOSED_IDLE), report.table()
        assert report.generations() == set(range(1, restarts + 2)), report.table()
    assert complaints == []
    instance.settled(restarts + 1)


@pytest.mark.parametrize("engine", ["granian", pytest.param("uwsgi", marks=pytest.mark.long)])
def test_workers_are_recycled_behind_nginx_without_loss(project: Project, instance: Instance, engine: str) -> None:
    if engine == "uwsgi":
        program()
    where = f"127.0.0.1:{free_port()}"
    project.config["app"]["target"] = "apps.wsgi:app"
    project.config["web"] |= {"bind": [f"uwsgi:{where}"], "threads": 8, "engine": engine, "max_requests": 150}
    instance.start()
    before = set(instance.workers())
    with nginx(project.root / "nginx", LOCATIONS, f"upstream ours {{ server {where} max_fails=0; }}") as front:
        clients = {"new": {"count": 3, "pause": 0.01}, "busy": {"count": 3, "pause": 0.005}, "upload": {"seconds": 0.5}}
        with LoadProcess(project.root, Target(port=front.port), clients, keep_alive=3600.0) as load:
            wait_for("both workers were replaced", lambda: not before & set(instance.workers()), limit=60)
            report = load.stop()
        complaints = front.complaints()
    assert not report.failures, report.table()
    assert complaints == []


@pytest.mark.parametrize("engine", ["uvicorn", "gunicorn", pytest.param("sync", marks=pytest.mark.long)])
def test_other_engines_serve_both(project: Project, instance: Instance, engine: str) -> None:
    where = project.root / "u.sock"
    project.config["app"]["target"] = "apps.wsgi:app"
    project.config["web"] |= {"bind": [*project.config["web"]["bind"], f"uwsgi:unix:{where}"], "engine": engine}
    if engine == "sync":
        project.config["web"] |= {"engine": "gunicorn", "worker_class": "sync"}
    instance.start()
    with nginx(project.root / "nginx", LOCATIONS, f"upstream ours {{ server unix:{where}; }}") as front:
        for generation in (1, 2):
            for port in (front.port, project.port):
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/?n=t", timeout=20) as answer:
                    assert answer.headers["x-generation"] == str(generation)
                    assert answer.read().startswith(f"t {generation} ".encode())
            if generation == 1:
                assert instance.command("restart").code == 0
        assert front.complaints() == []
