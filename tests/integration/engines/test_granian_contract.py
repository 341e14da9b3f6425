"""The private pieces of granian that the engine uses: look there before widening its version range."""

from __future__ import annotations

import importlib.metadata
import inspect
import threading
from dataclasses import fields

import pytest

from instar.engines import granian, versions
from instar.engines.base import EngineOptions


def test_installed_version_is_in_range():
    assert granian.AT_LEAST <= versions.require("granian", granian.AT_LEAST, granian.BELOW) < granian.BELOW


@pytest.mark.parametrize(
    ("path", "parameters"),
    [
        ("granian.asgi:_callback_wrapper", ["callback", "scope_opts", "state", "access_log_fmt"]),
        ("granian.wsgi:_callback_wrapper", ["callback", "scope_opts", "access_log_fmt"]),
        ("granian._futures:_future_watcher_wrapper", ["inner"]),
        ("granian._futures:_new_cbscheduler", ["loop", "cb", "impl_asyncio"]),
        ("granian.asgi:LifespanProtocol.__init__", ["self", "callable"]),
    ],
)
def test_signatures(path, parameters):
    module, name = path.split(":")
    found = __import__(module, fromlist=["_"])
    for part in name.split("."):
        found = getattr(found, part)
    assert list(inspect.signature(found).parameters) == parameters


def test_worker_arguments_are_those_of_granians_own_server():
    """Its own spawn functions tell the order of the arguments of the Rust classes, which have no signature."""
    from granian.server.mp import MPServer

    common = ["worker_id", "sock", "ipc", "runtime_threads", "runtime_blocking_threads", "blocking_threads"]
    common += ["blocking_threads_idle_timeout", "backpressure", "http_mode", "http1_settings", "http2_settings"]
    for function, extra in ((MPServer._spawn_asgi_lifespan_worker, ["websockets"]), (MPServer._spawn_wsgi_worker, [])):
        source = inspect.getsource(inspect.unwrap(function))
        call = source.split("Worker(", 1)[1].split(")", 1)[0]
        arguments = [item.strip() for item in call.split(",") if item.strip()]
        assert arguments == [*common, *extra, "static_path", "*ssl_ctx", "metrics"]
        assert "(sock[0] or sock[1]).is_uds()" in source
        assert "serve(scheduler, loop, shutdown_event)" in source


def test_settings_and_methods():
    from granian._granian import ASGIWorker, SocketHolder, WorkerSignal, WSGIWorker
    from granian.asgi import LifespanProtocol
    from granian.http import HTTP1Settings
    from granian.server.common import WORKERS_METHODS, HTTPModes, RuntimeModes

    for unix in (False, True):
        for worker in (ASGIWorker, WSGIWorker):
            assert hasattr(worker, WORKERS_METHODS[RuntimeModes.mt][unix])
    assert "header_read_timeout" in {field.name for field in fields(HTTP1Settings)}
    assert {mode.value for mode in HTTPModes} == {"auto", "1", "2"}
    assert hasattr(SocketHolder, "is_uds")
    assert {"startup", "shutdown", "send", "receive"} <= set(dir(LifespanProtocol))
    called = threading.Event()
    signal = WorkerSignal()
    signal.add_cb(called.set)
    assert not called.is_set()


def test_missing_and_unsupported_versions_are_told(monkeypatch):
    def version(name):
        if name == "uvicorn":
            raise importlib.metadata.PackageNotFoundError
        return "2.7.0"

    monkeypatch.setattr(importlib.metadata, "version", version)
    with pytest.raises(versions.EngineMissingError, match=r"cannot run granian 2\.7\.0: .*pip install 'granian>=2"):
        granian.preload(EngineOptions())
    with pytest.raises(versions.EngineMissingError, match="does not have it; pip install"):
        versions.require("uvicorn", (1,), (2,))
