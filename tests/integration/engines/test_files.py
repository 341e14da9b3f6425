"""Static files and `wsgi.file_wrapper` through each engine."""

from __future__ import annotations

import gzip

import engine_apps
import pytest
from engine_harness import NONCE, request, until
from test_engines import ALL, KEEPING, app_of, ids, options

from instar.runtime.scoreboard import Column, Drain
from instar.runtime.spec import StaticMap

WSGI = [item for item in ALL if item[1] == "wsgi"]


@pytest.fixture
def site(tmp_path):
    root = tmp_path / "site"
    (root / "deep").mkdir(parents=True)
    (root / "a.txt").write_text("hello static")
    (root / "big.bin").write_bytes(bytes(range(256)) * 4096)
    (root / "deep" / "a.txt").write_text("deeper")
    (root / "style.css").write_text("body {}" * 100)
    (root / "style.css.gz").write_bytes(gzip.compress(b"body {}" * 100))
    (root / "out.txt").symlink_to("/etc/passwd")
    (root / "in.txt").symlink_to(root / "a.txt")
    return root


@pytest.mark.parametrize("item", ALL, ids=ids)
def test_static_files(start, item, site):
    name, interface, cls = item
    maps = (StaticMap("/s", str(site)), StaticMap("/s/deep", str(site / "deep")))
    worker = start(name, interface, app_of(interface), options=options(cls), static=maps)
    status, headers, body = worker.get("/s/a.txt")
    assert (status, body) == (200, b"hello static")
    assert headers["content-type"].startswith("text/plain") and headers["content-length"] == "12"
    assert worker.get("/s/a.txt", {"If-None-Match": headers["etag"]})[0] == 304
    status, partial, body = worker.get("/s/a.txt", {"Range": "bytes=6-11"})
    assert (status, body, partial["content-range"]) == (206, b"static", "bytes 6-11/12")
    assert worker.get("/s/big.bin")[2] == (site / "big.bin").read_bytes()
    status, zipped, body = worker.get("/s/style.css", {"Accept-Encoding": "gzip"})
    assert zipped["content-encoding"] == "gzip" and gzip.decompress(body) == b"body {}" * 100
    connection = worker.http()
    status, headers, body = request(connection, "HEAD", "/s/a.txt")
    assert (status, body, headers["content-length"]) == (200, b"", "12")
    # What is no file of ours is the application's: missing, outside, a folder, another method.
    for path in ("/s/none", "/s/out.txt", "/s/../a.txt", "/s/%2e%2e/site/a.txt", "/s/deep", "/sa.txt", "/s/%00"):
        assert worker.get(path)[2] == b"ok", path
    assert worker.get("/s/in.txt")[2] == b"hello static"
    (site / "later.txt").write_text("uploaded")
    assert worker.get("/s/later.txt")[2] == b"uploaded"
    (site / "later.txt").write_text("changed now")
    assert worker.get("/s/later.txt")[2] == b"changed now"
    (site / "later.txt").unlink()
    assert worker.get("/s/later.txt")[2] == b"ok"
    until(lambda: worker.get_state(Column.IN_FLIGHT) == 0)
    assert worker.get_state(Column.ERRORS) == 0
    assert worker.stop() == 0


@pytest.mark.parametrize("item", KEEPING, ids=ids)
def test_static_files_drain(start, item, site):
    name, interface, cls = item
    worker = start(name, interface, app_of(interface), options=options(cls), static=(StaticMap("/s", str(site)),))
    connection = worker.http()
    assert request(connection, "GET", "/s/a.txt")[1].get("connection", "") != "close"
    worker.drain(Drain.CLOSE)
    assert request(connection, "GET", "/s/a.txt")[1]["connection"].lower() == "close"
    _, headers, body = worker.get("/s/big.bin", {"X-Instar-Probe": NONCE})
    assert len(body) == 1048576 and headers["x-instar-worker"] == "0"


@pytest.mark.parametrize("item", ALL, ids=ids)
def test_a_file_that_goes_away_while_it_is_known(start, item, site):
    name, interface, cls = item
    favicon = StaticMap("/favicon.ico", str(site / "a.txt"))
    worker = start(name, interface, app_of(interface), options=options(cls), static=(favicon,))
    assert worker.get("/favicon.ico")[2] == b"hello static"
    assert worker.get("/favicon.icon")[2] == b"ok"
    (site / "a.txt").unlink()
    assert worker.get("/favicon.ico")[2] == b"ok"


@pytest.mark.parametrize("item", WSGI, ids=ids)
def test_file_wrapper_keeps_working_and_counts(start, item, site):
    name, interface, cls = item
    worker = start(name, interface, engine_apps.wsgi, options=options(cls))
    path = f"/file?name={site / 'big.bin'}"
    assert worker.get(path)[2] == (site / "big.bin").read_bytes()
    until(lambda: worker.get_state(Column.IN_FLIGHT) == 0)
    assert worker.get_state(Column.REQUESTS) == 1
