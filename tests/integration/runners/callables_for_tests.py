"""Callables that the tests submit."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from instar.jobs.current import HandBack, current_job

#: A callable that isn't ended ends by itself.
LIFE = 60.0


def add(a, b=0):
    print(f"adding {a} and {b}")
    return a + b


def pair():
    return (1, 2)


def unfit():
    return object()


def fail():
    raise ValueError("no such\nfile")


def leave():
    sys.exit(3)


async def slow(path):
    Path(path).touch()
    try:
        await asyncio.sleep(LIFE)
    except asyncio.CancelledError:
        Path(path).write_text("cancelled")
        raise


def who(path):
    job = current_job()
    job.progress(done=1, total=2, text="half")
    for number in range(1000):
        job.progress({"number": number})
    return [job.id, job.attempt, job.key, os.getpid(), str(Path.cwd()), os.environ.get("COLOUR")]


def until_cancelled(path):
    Path(path).touch()
    assert current_job().cancelled.wait(LIFE)
    return "left"


def until(path, go):
    Path(path).write_text(str(os.getpid()))
    end = time.monotonic() + LIFE
    while not Path(go).exists() and time.monotonic() < end:
        time.sleep(0.005)
    return "done"


def hand_back(path):
    Path(path).touch()
    assert current_job().releasing.wait(LIFE)
    raise HandBack("the handler leaves")


def spin(path):
    Path(path).write_text(str(os.getpid()))
    end = time.monotonic() + LIFE
    while time.monotonic() < end:
        pass


def stubborn(path):
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    child = subprocess.Popen(["sleep", str(LIFE)])
    Path(path).write_text(f"{os.getpid()} {child.pid}")
    time.sleep(LIFE)


def die(sig):
    os.kill(os.getpid(), sig)
    time.sleep(LIFE)
