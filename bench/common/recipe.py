"""uWSGI's recipe for a restart with mules (bench/recipe), in a folder of its own, run by uWSGI or by instar."""

from __future__ import annotations

import contextlib
import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

from bench.common import beats, servers
from bench.common.paths import APPS, BENCH_VENV, INSTAR_VENV, ROOT
from bench.common.process import Server, ServerError, free_port

#: Names of the handlers, however they are run.
NAMES = ("main.job-handlers.1", "main.job-handlers.2")


class Site:
    """A running server whose holders leave their beats in a folder."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.beats = server.directory / "beats"
        self.beats.mkdir()

    def environment(self, boot: float, grow: int = 0, ballast: int = 0) -> dict[str, str]:
        return {
            "BENCH_BEATS": str(self.beats), "BENCH_BOOT": str(boot), "BENCH_GROW": str(grow),
            "BENCH_BALLAST": str(ballast), **servers.instar_env(self.server.directory),
        }  # fmt: skip

    def boots(self) -> int:
        return len((self.beats / "boots").read_text().splitlines())

    def count(self, name: str) -> int:
        return len(beats.holders(self.beats, name))

    def wait(self, name: str, count: int) -> beats.Holder:
        return beats.wait_for_holder(self.beats, name, count)

    def gaps(self) -> list[float]:
        """Of all names, in seconds."""
        return [gap for name in NAMES for gap in beats.gaps(beats.holders(self.beats, name))]


def program(kind: str) -> str:
    """What reads the recipe's files: `uwsgi` or `instar-uwsgi`. Raises ServerError."""
    return servers.peer("uwsgi") if kind == "uwsgi" else str(INSTAR_VENV / "bin" / "instar-uwsgi")


def write(server: Server) -> Path:
    """The files; the folder of the vassals."""
    vassals = server.directory / "vassals"
    vassals.mkdir()
    values = {
        "DIR": str(server.directory), "APPS": str(APPS), "VENV": str(BENCH_VENV), "PORT": str(server.port),
        "BACKEND": str(free_port()),
    }  # fmt: skip
    for path in (ROOT / "bench" / "recipe").glob("*.yml"):
        text = path.read_text()
        for key, value in values.items():
            text = text.replace(f"@{key}@", value)
        folder = vassals if path.stem.startswith("zerg") else server.directory
        (folder / path.name).write_text(text)
    return vassals


@contextlib.contextmanager
def emperor(kind: str, boot: float, ballast: int = 0) -> Iterator[Site]:
    """Emperor, pool and the first zergling with two mules. Raises ServerError."""
    binary = program(kind)
    server = Server(kind)
    site = Site(server)
    try:
        vassals = write(server)
        server.start(
            [binary, "--emperor", str(vassals), "--emperor-wrapper", binary], site.environment(boot, ballast=ballast)
        )
        for name in NAMES:
            site.wait(name, 1)
        yield site
    finally:
        server.stop()


def double_dance(kind: str, site: Site, boot: float, ballast: int = 0) -> float:
    """B without mules ends A, the Emperor starts A again, which ends B; seconds. Raises ServerError."""
    server, begun = site.server, time.monotonic()
    have = {name: site.count(name) for name in NAMES}
    argv = [program(kind), "--yaml", str(server.directory / "restarter.yml")]
    env = {**os.environ, **site.environment(boot, ballast=ballast), "BENCH_SERVER": server.tree.token}
    # The state of an Emperor's vassals is below its own; B has nobody above it.
    env["INSTAR_STATE_DIR"] = str(server.directory / "restarter")
    env.pop("PYTHONPATH", None)
    with open(server.directory / "restarter.out", "wb") as output:
        second = subprocess.Popen(argv, env=env, cwd=APPS, stdout=output, stderr=output, start_new_session=True)
    for name in NAMES:
        site.wait(name, have[name] + 1)
    try:
        second.wait(30)
    except subprocess.TimeoutExpired:
        raise ServerError(f"{server.name}: the second zergling was not ended") from None
    return time.monotonic() - begun
