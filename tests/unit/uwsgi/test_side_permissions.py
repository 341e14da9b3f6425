"""The side socket of a zerg pool hands out listening sockets: not to another user."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from instar.uwsgi.side_server import side_listener

CONNECT = "import socket, sys; socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET).connect(sys.argv[1])"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can act as another user: run the tests as root")
@pytest.mark.parametrize(("mode", "allowed"), [(None, False), (0o600, False), (0o666, True)])
def test_another_user_connects_only_where_the_mode_says_so(tmp_path: Path, mode: int | None, allowed: bool) -> None:
    # The folders above are not what keeps it out.
    for folder in (tmp_path, tmp_path.parent, tmp_path.parent.parent):
        folder.chmod(0o755)
    path = tmp_path / "pool.sock.instar"
    before = os.umask(0o022)
    try:
        listener = side_listener(path, mode)
    finally:
        os.umask(before)
    with listener:
        argv = ["/usr/bin/python3", "-I", "-S", "-c", CONNECT, str(path)]
        said = subprocess.run(argv, user=65534, group=65534, extra_groups=[], env={}, capture_output=True, text=True)
    assert (said.returncode == 0) == allowed, said.stderr
    assert allowed or "Permission denied" in said.stderr
