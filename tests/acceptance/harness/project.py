"""A project on disk: releases side by side, a symbolic link to the current one, and its instar.toml."""

from __future__ import annotations

import hashlib
import json
import os
import random
import socket
from pathlib import Path
from typing import Any

from load.target import Target

TESTS = Path(__file__).parents[2]
#: Below the range that the kernel takes client ports from; each of several test processes has its own part.
_SHARE = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")) % 8
_PORTS = range(20_000 + 1500 * _SHARE, 20_000 + 1500 * (_SHARE + 1))


def free_port() -> int:
    """A port that nobody listens on."""
    while True:
        port = random.choice(_PORTS)
        with socket.socket(socket.AF_INET6) as sock:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
            try:
                sock.bind(("::", port))
            except OSError:
                continue
        return port


class Project:
    """The test application, ready to run. Change `config` before the start (or before a restart) and `write` it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.port = free_port()
        self.gates = root / "gates"
        self.gates.mkdir()
        static = root / "static"
        static.mkdir()
        content = random.Random(1).randbytes(30_000)
        (static / "file.bin").write_bytes(content)
        self.static_sha256 = hashlib.sha256(content).hexdigest()
        self._releases = 0
        self.config: dict[str, dict[str, Any]] = {
            "app": {
                "name": "test",
                "target": "apps.asgi:app",
                "chdir": str(root / "current"),
                "pythonpath": [str(TESTS)],
                "env": {"TEST_GATES": str(self.gates)},
            },
            "web": {
                "bind": [f"127.0.0.1:{self.port}"],
                "workers": 2,
                "engine": "granian",
                "keep_alive": 20.0,
                "static": {"/static": str(static)},
            },
            "health": {"path": "/healthz", "timeout": 2.0},
            "restart": {"boot_timeout": 30.0, "drain_timeout": 20.0, "stream_grace": 0.5, "grace": 0.3},
            "log": {"stdout": True},
        }
        self.deploy("first")

    @property
    def target(self) -> Target:
        """Where clients go."""
        return Target(port=self.port)

    @property
    def config_file(self) -> Path:
        """Path of instar.toml."""
        return self.root / "instar.toml"

    def deploy(self, word: str, kind: str = "good", **options: Any) -> Path:
        """Put a release on disk and make it the current one, in one step, as deploy tools do."""
        self._releases += 1
        release = self.root / "releases" / str(self._releases)
        release.mkdir(parents=True)
        (release / "release").write_text(word)
        (release / "behaviour").write_text(json.dumps({"kind": kind, **options}))
        self.point_at(release)
        return release

    def point_at(self, release: Path) -> None:
        """Make a release the current one."""
        link = self.root / "next"
        link.symlink_to(release)
        link.rename(self.root / "current")

    def write(self) -> Path:
        """Write the configuration."""
        lines = []
        for section, values in self.config.items():
            lines += [f"[{section}]", *(f"{key} = {_toml(value)}" for key, value in values.items()), ""]
        self.config_file.write_text("\n".join(lines))
        return self.config_file


def _toml(value: Any) -> str:
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{json.dumps(key)} = {_toml(item)}" for key, item in value.items()) + " }"
    if isinstance(value, list):
        return "[" + ", ".join(_toml(item) for item in value) + "]"
    return json.dumps(value)
