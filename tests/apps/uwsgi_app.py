"""A WSGI application that uses uWSGI's module: it evaluates what tests send, and writes down what happens when."""

from __future__ import annotations

import atexit
import os
import sys
from pathlib import Path
from typing import Any

import uwsgi

EVENTS = os.environ["TEST_EVENTS"]
AT_IMPORT = (uwsgi.worker_id(), uwsgi.mule_id(), uwsgi.in_farm(), list(sys.argv))


def note(text: str) -> None:
    """One line, whole, also from several processes: who, and what."""
    line = f"worker {uwsgi.worker_id()} mule {uwsgi.mule_id()}: {text}\n".encode()
    fd = os.open(EVENTS, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(fd, line)
    os.close(fd)


def evaluate(expression: str) -> str:
    """The value of an expression, or its error, as text."""
    try:
        return repr(eval(expression, {"uwsgi": uwsgi, "os": os, "sys": sys, "app": sys.modules[__name__]}))  # noqa: S307
    except Exception as error:
        return f"{type(error).__name__}: {error}"


def on_message(message: bytes) -> None:
    """For the mule that runs nothing: evaluate, and write the answer into the file that the message names."""
    path, _, expression = message.decode().partition("\n")
    if not expression:
        return
    new = Path(f"{path}.new")
    new.write_text(evaluate(expression))
    new.rename(path)


def forked() -> None:
    """After each fork: leave the pid where a test finds it."""
    Path(f"{EVENTS}.pid.{uwsgi.worker_id()}.{uwsgi.mule_id()}").write_text(str(os.getpid()))
    note("post_fork_hook")


note("imported")
uwsgi.post_fork_hook = forked
uwsgi.atexit = lambda: note("uwsgi.atexit")
uwsgi.mule_msg_hook = on_message
atexit.register(note, "atexit")


def application(environ: dict[str, Any], start_response: Any) -> list[bytes]:
    """Answer the probe, or evaluate the body."""
    body = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0)).decode()
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [(evaluate(body) if body else "ready").encode()]
