"""Fixtures of the engine tests."""

from __future__ import annotations

import contextlib
import os
import signal
import ssl
import sys
from pathlib import Path

import pytest
import trustme

sys.path.insert(0, str(Path(__file__).parent))

import engine_harness as harness


@pytest.fixture(scope="session")
def authority(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tls")
    authority = trustme.CA()
    certificate = authority.issue_cert("localhost")
    certificate.cert_chain_pems[0].write_to_path(str(folder / "cert.pem"))
    certificate.private_key_pem.write_to_path(str(folder / "key.pem"))
    return authority, str(folder / "cert.pem"), str(folder / "key.pem")


@pytest.fixture
def client_tls(authority):
    context = ssl.create_default_context()
    authority[0].configure_trust(context)
    return context


@pytest.fixture
def start(tmp_path):
    """Start workers; whatever is left at the end is killed, its output shown when the test failed."""
    workers = []
    sockets = []

    def start(engine, interface, app, *, socks=None, kind="tcp", **kwargs):
        if socks is None:
            socks = (harness.listen_unix(tmp_path / "app.sock") if kind == "unix" else harness.listen_tcp(),)
            sockets.extend(socks)
        output = tmp_path / f"{engine}-{len(workers)}.out"
        running = harness.start(engine, interface, app, socks, output, **kwargs)
        workers.append(running)
        return running

    yield start
    for running in workers:
        if running.poll() is None:
            os.kill(running.pid, signal.SIGKILL)
            with contextlib.suppress(AssertionError):
                running.wait()
        if running.output.exists():
            print(running.output.read_text()[-4000:])
    for sock in sockets:
        sock.close()
