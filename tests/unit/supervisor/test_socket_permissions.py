"""`[web] socket_mode` and `socket_owner`."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from instar.config.loading import checked
from instar.errors import ConfigError
from instar.supervisor.frontend import Frontend
from instar.supervisor.plan import Plan, socket_owner

Bound = Callable[..., os.stat_result]


@pytest.fixture
def bound(tmp_path: Path) -> Bound:
    """Listen on a UNIX socket with these settings; its file."""
    (tmp_path / "locks").mkdir()

    def bound(**web: str) -> os.stat_result:
        raw = {"app": {"target": "x:app"}, "web": {"bind": f"unix:{tmp_path}/s", **web}}
        config = checked(raw, base=tmp_path, name="the test")
        frontend = Frontend(lock_folder=tmp_path / "locks")
        frontend.open(config)
        try:
            frontend.prepare("a", 1, Plan.of(config))
            return (tmp_path / "s.g1").stat()
        finally:
            frontend.close(list(frontend.listeners))

    return bound


@pytest.mark.parametrize(
    ("web", "mode"), [({}, 0o660), ({"socket_mode": "600"}, 0o600), ({"socket_mode": "0666"}, 0o666)]
)
def test_mode(bound: Bound, web: dict[str, str], mode: int) -> None:
    assert bound(**web).st_mode & 0o777 == mode


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away; run the tests as root")
def test_owner(bound: Bound) -> None:
    found = bound(socket_owner="12345:23456")
    assert (found.st_uid, found.st_gid) == (12345, 23456)
    assert bound(socket_owner=":23456").st_gid == 23456


@pytest.mark.parametrize(
    ("web", "words"),
    [
        ({"socket_mode": "rw"}, 'socket_mode must be a mode such as "660"'),
        ({"socket_owner": "a:b:c"}, "socket_owner must be"),
        ({"socket_owner": "nobody-of-that-name"}, "no such user or group"),
    ],
)
def test_refused(tmp_path: Path, web: dict[str, str], words: str) -> None:
    with pytest.raises(ConfigError) as error:
        socket_owner(checked({"app": {"target": "x:app"}, "web": web}, base=tmp_path, name="the test"))
    assert words in str(error.value)
