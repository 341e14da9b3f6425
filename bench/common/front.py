"""nginx before a backend: `front.py PORT DIRECTORY DIRECTIVE -- BACKEND…`, until SIGTERM.

DIRECTIVE is what the location holds: `uwsgi_pass unix:/…` or `proxy_pass http://…`. Run by path, under any Python.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

CONFIG = """\
pid nginx.pid;
error_log error.log warn;
{user}
worker_processes 1;
daemon off;
events {{ worker_connections 2048; }}
http {{
    access_log off;
    keepalive_requests 10000000;
    client_body_temp_path temp;
    proxy_temp_path temp;
    fastcgi_temp_path temp;
    uwsgi_temp_path temp;
    scgi_temp_path temp;
    include /etc/nginx/uwsgi_params;
    upstream backend {{ server {backend}; keepalive 32; }}
    server {{
        listen 127.0.0.1:{port} backlog=2048;
        location / {{ {directive} }}
    }}
}}
"""
DIRECTIVES = {
    "uwsgi_pass": "uwsgi_pass backend;",
    "proxy_pass": 'proxy_pass http://backend; proxy_http_version 1.1; proxy_set_header Connection "";',
}


def main(port: str, folder: str, directive: str, backend: str, argv: list[str]) -> None:
    """Run both until the first ends or SIGTERM comes."""
    config = Path(folder, "nginx.conf")
    user = "user root;" if os.getuid() == 0 else ""
    config.write_text(CONFIG.format(port=port, backend=backend, directive=DIRECTIVES[directive], user=user))
    nginx = ["nginx", "-p", folder, "-c", str(config), "-e", str(Path(folder, "error.log"))]
    processes = [subprocess.Popen(command) for command in (nginx, argv)]
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    try:
        os.wait()
    finally:
        for process in processes:
            process.terminate()
        for process in processes:
            process.wait()


if __name__ == "__main__":
    main(*sys.argv[1:5], argv=sys.argv[6:])
