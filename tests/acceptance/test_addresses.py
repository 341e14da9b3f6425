"""Other ways in: UNIX sockets, TLS with HTTP/2, IPv6, several addresses at once."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from typing import Any

import pytest
import trustme
from harness.engines import ENGINES, Engine, http1
from harness.instance import Instance
from harness.probe import ask
from harness.project import Project, free_port
from harness.promise import breathe, check

from load.process import LoadProcess
from load.purity import Switch
from load.target import Target


def plan(engines: Sequence[Engine], short: Sequence[str]) -> list[Any]:
    """Ten restarts of each engine in the long run, two of some in every run."""
    marks = [pytest.mark.long, pytest.mark.timeout(900)]
    long = [pytest.param(engine, 10, marks=marks, id=f"{engine}-10") for engine in engines]
    return long + [pytest.param(engine, 2, id=f"{engine}-2") for engine in engines if engine.name in short]


def restart_under_load(instance: Instance, target: Target, clients: dict[str, dict[str, Any]], restarts: int) -> None:
    project = instance.project
    load = LoadProcess(project.root, target, clients, keep_alive=project.config["web"]["keep_alive"])
    switches: list[Switch] = []
    with load:
        for number in range(restarts):
            breathe()
            project.deploy(f"release{number}")
            switches.append(instance.handover().switch())
        breathe()
        report = load.stop()
    check(report, 1, switches, clients)
    instance.settled(restarts + 1)


@pytest.mark.parametrize(("engine", "restarts"), plan(ENGINES, short=("granian-asgi",)))
def test_unix_socket(project: Project, instance: Instance, engine: Engine, restarts: int) -> None:
    engine.configure(project)
    path = project.root / "app.sock"
    project.config["web"]["bind"] = [f"unix:{path}"]
    instance.start()
    clients = http1(project)
    restart_under_load(instance, Target(unix=str(path)), clients, restarts)


@pytest.mark.parametrize(("engine", "restarts"), plan(ENGINES[:2], short=("granian-asgi",)))
def test_tls_and_http2(project: Project, instance: Instance, engine: Engine, restarts: int) -> None:
    engine.configure(project)
    authority = trustme.CA()
    certificate = authority.issue_cert("127.0.0.1")
    authority.cert_pem.write_to_path(str(project.root / "ca.pem"))
    certificate.private_key_pem.write_to_path(str(project.root / "key.pem"))
    certificate.cert_chain_pems[0].write_to_path(str(project.root / "cert.pem"))
    project.config["web"]["tls_cert"] = str(project.root / "cert.pem")
    project.config["web"]["tls_key"] = str(project.root / "key.pem")
    instance.start()
    target = Target(port=project.port, ca=str(project.root / "ca.pem"))
    restart_under_load(instance, target, engine.clients(project), restarts)


def test_dual_stack(project: Project, instance: Instance) -> None:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError as error:
        pytest.skip(f"no IPv6 here: {error}")
    project.config["web"]["bind"] = [f"[::]:{project.port}"]
    instance.start()
    clients = {"new": {"pause": 0.01}, "idle": {"count": 4, "pause": 0.5}}
    restart_under_load(instance, Target(host="::1", port=project.port), clients, 1)
    assert ask(project.port) == 2


def test_two_addresses(project: Project, instance: Instance) -> None:
    other = free_port()
    project.config["web"]["bind"] = [f"127.0.0.1:{project.port}", f"127.0.0.1:{other}"]
    instance.start()
    restart_under_load(instance, Target(port=other), {"new": {"pause": 0.01}, "idle": {"count": 2}}, 1)
    assert ask(project.port) == 2
