"""How the real uWSGI is started. What it then does: tests/acceptance/test_uwsgi_protocol.py."""

from __future__ import annotations

import os
import socket
import sys
from pathlib import Path

import pytest

from instar import engines
from instar.engines import becoming, uwsgi_binary
from instar.engines.base import EngineOptions, ListenSocket
from instar.errors import ConfigError


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An environment with no uwsgi but what the test puts there."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    uwsgi_binary._python_of.cache_clear()
    return tmp_path


def put(path: Path, version: str) -> None:
    program = path / "uwsgi"
    program.write_text(f"#!/bin/sh\necho {version}\n")
    program.chmod(0o755)


def test_without_the_program(path: Path) -> None:
    with pytest.raises(ConfigError, match="there is no uwsgi; pip install uwsgi"):
        engines.get("uwsgi").preload(EngineOptions())


def test_with_one_for_another_python(path: Path) -> None:
    put(path, "3.7.17")
    with pytest.raises(ConfigError, match=r"embeds Python 3\.7\.17, and the application has"):
        uwsgi_binary.preload(EngineOptions())


def test_with_one_for_this_python(path: Path) -> None:
    put(path, "{}.{}.99".format(*sys.version_info))
    uwsgi_binary.preload(EngineOptions())


def test_arguments() -> None:
    sockets = [
        (ListenSocket(30, "tcp", "127.0.0.1:80"), 3),
        (ListenSocket(31, "unix", "uwsgi:unix:/s", "uwsgi"), 4),
    ]
    options = EngineOptions(threads=3, uwsgi_buffer_size=4096, uwsgi_timeout=0.2)
    argv = uwsgi_binary.arguments(options, sockets)
    assert argv[:4] == ["--http-socket", "fd://3", "--uwsgi-socket", "fd://4"]
    for name, value in (("--threads", "3"), ("--buffer-size", "4096"), ("--socket-timeout", "1")):
        assert argv[argv.index(name) + 1] == value


def test_only_what_is_named_stays_open_across_the_exec(monkeypatch: pytest.MonkeyPatch) -> None:
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            listeners = [socket.create_server(("127.0.0.1", 0)) for _ in range(2)]
            names = [sock.getsockname() for sock in listeners]
            kept, other = os.memfd_create("kept"), os.memfd_create("other", 0)
            os.write(kept, b"x")
            os.environ["KEPT_FD"] = str(kept)
            items = tuple(ListenSocket(sock.fileno(), "tcp", "x") for sock in listeners)
            fds = becoming.prepare(items, ("KEPT_FD", "NOT_SET_FD"))
            assert fds == [3, 4]
            assert [socket.socket(fileno=os.dup(fd)).getsockname() for fd in fds] == names
            number = int(os.environ["KEPT_FD"])
            assert os.pread(number, 1, 0) == b"x"
            opened = {int(name) for name in os.listdir("/proc/self/fd")}
            inherited = {fd for fd in opened if fd > 2 and _inheritable(fd)}
            assert inherited == {3, 4, number}
            assert other not in inherited
            code = 0
        except BaseException:
            import traceback

            traceback.print_exc()
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def _inheritable(fd: int) -> bool:
    try:
        return os.get_inheritable(fd)
    except OSError:
        return False
