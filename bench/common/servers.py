"""The servers under test: how each is started, with the same application, workers and keep-alive time."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal

from bench.common.paths import BENCH_VENV, INSTAR_VENV, ROOT
from bench.common.process import Server, ServerError

Interface = Literal["wsgi", "asgi"]
#: Seconds that every server keeps an idle connection: longer than any client's pause.
KEEP_ALIVE = 30
#: uWSGI's http11-socket gives a kept-alive connection a thread of its own.
UWSGI_HTTP11_THREADS = 32


@dataclasses.dataclass(frozen=True)
class Site:
    """What a server is asked to run, and where."""

    port: int
    directory: Path
    interface: Interface
    workers: int = 2
    #: Per worker, WSGI only.
    threads: int = 4

    @property
    def bind(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def target(self) -> str:
        return f"bench_app:{self.interface}"


@dataclasses.dataclass(frozen=True)
class Kind:
    """A server and a way to run it."""

    name: str
    interface: Interface
    argv: Callable[[Site], list[str]]

    @property
    def is_instar(self) -> bool:
        return self.name.startswith("instar")


def peer(program: str) -> str:
    """The path of a peer's command. Raises ServerError."""
    path = BENCH_VENV / "bin" / program
    if not path.exists():
        raise ServerError(f"{program} is not installed in {BENCH_VENV.name}: run bench/setup")
    return str(path)


def gunicorn(site: Site, *extra: str) -> list[str]:
    argv = [peer("gunicorn"), "--workers", str(site.workers), "--bind", site.bind, "--log-level", "warning"]
    argv += ["--worker-class", "gthread", "--threads", str(site.threads), "--keep-alive", str(KEEP_ALIVE)]
    return [*argv, "--pid", str(site.directory / "pid"), "--no-control-socket", *extra, site.target]


def gunicorn_preload(site: Site) -> list[str]:
    return gunicorn(site, "--preload")


def uvicorn(site: Site) -> list[str]:
    argv = [peer("uvicorn"), "--workers", str(site.workers), "--port", str(site.port), "--log-level", "warning"]
    return [*argv, "--no-access-log", "--timeout-keep-alive", str(KEEP_ALIVE), site.target]


def granian(site: Site) -> list[str]:
    argv = [peer("granian"), "--interface", site.interface, "--workers", str(site.workers), "--port", str(site.port)]
    if site.interface == "wsgi":
        argv += ["--blocking-threads", str(site.threads)]
    return [*argv, "--log-level", "warning", site.target]


def hypercorn(site: Site) -> list[str]:
    argv = [peer("hypercorn"), "--workers", str(site.workers), "--bind", site.bind, "--log-level", "warning"]
    return [*argv, "--keep-alive", str(KEEP_ALIVE), site.target]


def uwsgi(site: Site, *extra: str) -> list[str]:
    argv = [peer("uwsgi"), "--master", "--die-on-term", "--enable-threads", "--thunder-lock", "--disable-logging"]
    argv += ["--need-app", "--listen", "1024", "--processes", str(site.workers), "--threads", str(site.threads)]
    argv += ["--master-fifo", str(site.directory / "fifo"), "--module", site.target]
    return [*argv, "--pythonpath", ".", *extra]


def uwsgi_router(site: Site) -> list[str]:
    """The HTTP router in front of the workers, as in a zerg set-up; it keeps client connections alive."""
    return uwsgi(site, "--http", site.bind, f"--http-keepalive={KEEP_ALIVE}")


def uwsgi_router_closing(site: Site) -> list[str]:
    """The router as many configure it (no http-keepalive): a connection for each request."""
    return uwsgi(site, "--http", site.bind)


def uwsgi_router_chain(site: Site) -> list[str]:
    return [*uwsgi_router(site), "--lazy-apps"]


def uwsgi_http11(site: Site) -> list[str]:
    """Workers speak HTTP themselves. A kept-alive connection occupies a thread, so there has to be one for each."""
    crowd = dataclasses.replace(site, threads=UWSGI_HTTP11_THREADS)
    return uwsgi(crowd, "--http11-socket", site.bind, "--socket-timeout", str(KEEP_ALIVE))


def behind_nginx(directive: str, backend: Callable[[Site, str], list[str]]) -> Callable[[Site], list[str]]:
    """nginx on the site's port, and behind it a backend on a UNIX socket."""

    def argv(site: Site) -> list[str]:
        if not shutil.which("nginx"):
            raise ServerError("nginx is not installed: apt-get install nginx-light")
        place = f"unix:{site.directory}/backend"
        front = [str(INSTAR_VENV / "bin" / "python"), str(ROOT / "bench/common/front.py")]
        return [*front, str(site.port), str(site.directory), directive, place, "--", *backend(site, place)]

    return argv


def uwsgi_backend(site: Site, place: str) -> list[str]:
    return uwsgi(site, "--uwsgi-socket", place.removeprefix("unix:"))


CONFIG = """\
[app]
name = "bench"
target = "{target}"
chdir = "{chdir}"

[web]
bind = ["{bind}"]
workers = {workers}
threads = {threads}
engine = "{engine}"
keep_alive = {keep_alive}.0
{steering}
[restart]
drain_timeout = 40.0
"""


def instar(engine: str, steering: str = "", bind: str = "") -> Callable[[Site], list[str]]:
    """instar with an engine; `steering` and `bind` as in the configuration, empty for the default."""

    def argv(site: Site) -> list[str]:
        program = INSTAR_VENV / "bin" / "instar"
        if not program.exists():
            raise ServerError("instar is not installed in .venv: run `make run` once")
        config = CONFIG.format(
            target=site.target,
            chdir=Path("bench/apps").resolve(),
            bind=bind or site.bind,
            workers=site.workers,
            threads=site.threads if site.interface == "wsgi" else 1,
            engine=engine,
            keep_alive=KEEP_ALIVE,
            steering=f'steering = "{steering}"\n' if steering else "",
        )
        path = site.directory / "instar.toml"
        path.write_text(config)
        return [str(program), "run", "-c", str(path)]

    return argv


def instar_backend(protocol: str, engine: str = "granian") -> Callable[[Site, str], list[str]]:
    return lambda site, place: instar(engine, bind=protocol + place)(site)


def instar_env(directory: Path) -> dict[str, str]:
    """Where the supervisor of this site keeps its state."""
    return {"INSTAR_STATE_DIR": str(directory / "state")}


INSTAR_GRANIAN_WSGI = Kind("instar granian (wsgi)", "wsgi", instar("granian"))
INSTAR_GRANIAN_ASGI = Kind("instar granian (asgi)", "asgi", instar("granian"))
INSTAR_UVICORN = Kind("instar uvicorn", "asgi", instar("uvicorn"))
INSTAR_GUNICORN = Kind("instar gunicorn gthread", "wsgi", instar("gunicorn"))
GUNICORN = Kind("gunicorn gthread", "wsgi", gunicorn)
GUNICORN_PRELOAD = Kind("gunicorn gthread --preload", "wsgi", gunicorn_preload)
UVICORN = Kind("uvicorn", "asgi", uvicorn)
GRANIAN_WSGI = Kind("granian (wsgi)", "wsgi", granian)
GRANIAN_ASGI = Kind("granian (asgi)", "asgi", granian)
HYPERCORN = Kind("hypercorn", "asgi", hypercorn)
UWSGI_ROUTER = Kind("uWSGI http router", "wsgi", uwsgi_router)
UWSGI_ROUTER_CLOSING = Kind("uWSGI http router, no keep-alive", "wsgi", uwsgi_router_closing)
UWSGI_ROUTER_CHAIN = Kind("uWSGI http router, lazy-apps", "wsgi", uwsgi_router_chain)
UWSGI_HTTP11 = Kind("uWSGI http11-socket", "wsgi", uwsgi_http11)
NGINX_INSTAR_UWSGI = Kind("instar, nginx uwsgi_pass", "wsgi", behind_nginx("uwsgi_pass", instar_backend("uwsgi:")))
NGINX_INSTAR_BINARY = Kind(
    "instar engine uwsgi, nginx uwsgi_pass", "wsgi", behind_nginx("uwsgi_pass", instar_backend("uwsgi:", "uwsgi"))
)
NGINX_INSTAR_PROXY = Kind("instar, nginx proxy_pass", "wsgi", behind_nginx("proxy_pass", instar_backend("")))
NGINX_UWSGI = Kind("uWSGI, nginx uwsgi_pass", "wsgi", behind_nginx("uwsgi_pass", uwsgi_backend))


@contextlib.contextmanager
def running(kind: Kind, *, workers: int = 2, threads: int = 4, boot: float = 0.0, ballast: int = 0) -> Iterator[Server]:
    """One server for the length of the context; `boot` in seconds, `ballast` in MB. Raises ServerError."""
    server = Server(kind.name)
    site = Site(server.port, server.directory, kind.interface, workers, threads)
    env = {"BENCH_BOOT": str(boot), "BENCH_BALLAST": str(ballast), **instar_env(server.directory)}
    try:
        server.start(kind.argv(site), env)
        yield server
    finally:
        server.stop()


def available() -> list[str]:
    """Why some rows will be missing: one sentence for each."""
    reasons = []
    if not shutil.which("uwsgi", path=str(BENCH_VENV / "bin")) and BENCH_VENV.exists():
        reasons.append("uWSGI is missing: it needs a C compiler (then run bench/setup again)")
    if not os.access(BENCH_VENV / "bin" / "granian", os.X_OK):
        reasons.append("no peers are installed: run bench/setup")
    return reasons
