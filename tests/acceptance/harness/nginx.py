"""A real nginx in a temporary folder, in front of what a test runs."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from harness.project import free_port
from harness.waiting import wait_for

#: As distributions have it; a location with a line of its own has to include it again.
PARAMETERS = """
uwsgi_param QUERY_STRING    $query_string;
uwsgi_param REQUEST_METHOD  $request_method;
uwsgi_param CONTENT_TYPE    $content_type;
uwsgi_param CONTENT_LENGTH  $content_length;
uwsgi_param REQUEST_URI     $request_uri;
uwsgi_param PATH_INFO       $document_uri;
uwsgi_param DOCUMENT_ROOT   $document_root;
uwsgi_param SERVER_PROTOCOL $server_protocol;
uwsgi_param REQUEST_SCHEME  $scheme;
uwsgi_param HTTPS           $https if_not_empty;
uwsgi_param REMOTE_ADDR     $remote_addr;
uwsgi_param REMOTE_PORT     $remote_port;
uwsgi_param SERVER_PORT     $server_port;
uwsgi_param SERVER_NAME     $server_name;
"""
_CONFIG = """
pid nginx.pid;
error_log error.log warn;
{user}
worker_processes 1;
events {{ worker_connections 2048; }}
http {{
    access_log off;
    keepalive_timeout 3600s;
    keepalive_requests 1000000;
    client_max_body_size 1g;
    uwsgi_read_timeout 120s;
    client_body_temp_path temp;
    proxy_temp_path temp;
    fastcgi_temp_path temp;
    uwsgi_temp_path temp;
    scgi_temp_path temp;
    include uwsgi_params;
{upstreams}
    server {{
        listen 127.0.0.1:{port} backlog=2048;
        server_name example.org;
{locations}
    }}
}}
"""


class Nginx:
    """One nginx; `port` is where it listens."""

    def __init__(self, folder: Path, port: int) -> None:
        self.folder = folder
        self.port = port

    def complaints(self) -> list[str]:
        """What it said of its upstreams."""
        return (self.folder / "error.log").read_text().splitlines()


@contextmanager
def nginx(folder: Path, locations: str, upstreams: str = "") -> Iterator[Nginx]:
    """Run it with these `location` and `upstream` blocks."""
    program = shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
    if program is None:
        pytest.skip("needs nginx: apt-get install nginx-light")
    folder.mkdir(parents=True, exist_ok=True)
    port = free_port()
    user = "user root;" if os.getuid() == 0 else ""
    (folder / "uwsgi_params").write_text(PARAMETERS)
    config = folder / "nginx.conf"
    config.write_text(_CONFIG.format(port=port, locations=locations, upstreams=upstreams, user=user))
    process = subprocess.Popen(
        [program, "-p", str(folder), "-c", str(config), "-e", str(folder / "error.log"), "-g", "daemon off;"]
    )
    try:
        wait_for("nginx listens", lambda: _listens(process, port, folder))
        yield Nginx(folder, port)
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(10)


def _listens(process: subprocess.Popen[bytes], port: int, folder: Path) -> bool:
    if process.poll() is not None:
        raise AssertionError(f"nginx ended: {(folder / 'error.log').read_text()}")
    with socket.socket() as sock:
        return sock.connect_ex(("127.0.0.1", port)) == 0
