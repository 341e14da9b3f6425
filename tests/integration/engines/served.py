"""A server that listens on descriptor 3, for the command engine; its application uses `instar.middleware`."""

from __future__ import annotations

import json
import os
import socket
import sys
from socketserver import ThreadingMixIn
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

from instar import current_worker, middleware


def application(environ, start_response):
    worker = current_worker()
    found = {
        "argv": sys.argv[1:],
        "pid": os.getpid(),
        "listen": [os.environ.get("LISTEN_PID"), os.environ.get("LISTEN_FDS")],
        "worker": [worker.name, worker.index, worker.generation],
        "secret": [name for name in os.environ if name.startswith("INSTAR_PROBE")],
        "open": sorted(int(fd) for fd in os.listdir("/proc/self/fd")),
    }
    body = json.dumps(found).encode()
    start_response("200 OK", [("Content-Length", str(len(body)))])
    return [body]


class Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True


class Handler(WSGIRequestHandler):
    def log_message(self, *args):
        pass


if __name__ == "__main__":
    sock = socket.socket(fileno=int(sys.argv[1]) if len(sys.argv) > 1 else 3)
    server = Server(sock.getsockname(), Handler, bind_and_activate=False)
    server.socket.close()
    server.socket = sock
    server.server_name, server.server_port = sock.getsockname()[:2]
    server.setup_environ()
    server.set_app(middleware.wsgi(application))
    server.serve_forever()
