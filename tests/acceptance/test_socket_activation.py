"""Listening sockets that a service manager hands over (sd_listen_fds(3)): used, and handed over without loss."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from harness.instance import INSTAR, Instance
from harness.project import Project

from load.process import LoadProcess

CLIENTS = {"new": {"count": 2}, "busy": {"count": 2}, "idle": {"count": 4}}

#: What systemd does: binds, says so in the environment, and becomes the service.
ACTIVATE = """
import os, socket, sys
port, reuse, program = int(sys.argv[1]), sys.argv[2] == "reuse", sys.argv[3:]
sock = socket.socket()
sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
if reuse:
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
sock.bind(("127.0.0.1", port))
sock.listen(128)
if sock.fileno() != 3:
    os.dup2(sock.fileno(), 3)
os.set_inheritable(3, True)
os.environ |= {"LISTEN_FDS": "1", "LISTEN_PID": str(os.getpid()), "LISTEN_FDNAMES": "web"}
os.execv(program[0], program)
"""


@pytest.mark.parametrize(("reuse", "mode"), [("plain", "shared"), ("reuse", "steered")])
def test_an_inherited_socket(instance: Instance, project: Project, folder: Path, reuse: str, mode: str) -> None:
    wrapper = folder / "activate.py"
    wrapper.write_text(ACTIVATE)
    prefix = [sys.executable, str(wrapper), str(project.port), reuse, str(INSTAR)]
    instance.start(program=prefix)
    [bind] = instance.status()["web"]["binds"]
    assert bind["mode"] == mode
    # A shared socket promises less, and says so.
    assert bool(bind["limits"]) == (mode == "shared")
    with LoadProcess(folder / "load", instance.load_target(), CLIENTS, keep_alive=20.0) as load:
        for generation in (2, 3):
            project.deploy(f"release {generation}")
            assert instance.command("restart").code == 0
            instance.settled(generation)
        report = load.stop()
    assert not report.failures, report.table()
    # The application's processes are not told of the sockets a second time.
    environ = Path(f"/proc/{instance.workers()[0]}/environ").read_bytes()
    assert b"LISTEN_FDS" not in environ
