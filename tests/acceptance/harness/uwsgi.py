"""One uWSGI configuration, run by the real uWSGI and by instar: the same questions, the same answers."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import urllib.request
import uuid
from collections.abc import Sequence
from pathlib import Path

from harness.processes import MARK, Process, alive, kill_all
from harness.project import TESTS, free_port
from harness.waiting import wait_for
from oracle.uwsgi import program

INSTAR_UWSGI = Path(sys.executable).with_name("instar-uwsgi")


class Server:
    """`apps.uwsgi_app` under one of the two. Nothing of it is left after `clean_up`."""

    def __init__(self, folder: Path, options: Sequence[str], *, real: bool) -> None:
        self.folder = folder
        folder.mkdir(exist_ok=True)
        self.real = real
        self.port = free_port()
        self._mark = uuid.uuid4().hex
        self._log = folder / "output"
        command = [str(program())] if real else [str(INSTAR_UWSGI)]
        bind = f"127.0.0.1:{self.port}"
        argv = [*command, "--master", "--http-socket", bind, "--home", sys.prefix, "--pythonpath", str(TESTS)]
        inherited = {key: value for key, value in os.environ.items() if not key.startswith(("PYTEST", "COV", "UWSGI_"))}
        state = {} if real else {"INSTAR_STATE_DIR": str(folder / "state")}
        with self._log.open("wb") as output:
            self.process = subprocess.Popen(
                [*argv, *options],
                cwd=TESTS,
                env={**inherited, **state, MARK: self._mark, "TEST_EVENTS": str(self.events_file)},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
            )

    @property
    def events_file(self) -> Path:
        """Where the application writes down what happens."""
        return self.folder / "events"

    @property
    def log(self) -> str:
        """What the server has said."""
        return self._log.read_text(errors="replace")

    def wait_until_it_serves(self) -> Server:
        """Until the application answers."""
        wait_for(f"the server answers; it said:\n{self.log[-3000:]}", self._serves, 40)
        return self

    def _serves(self) -> bool:
        assert self.process.poll() is None, self.log[-6000:]
        with contextlib.suppress(OSError):
            return self.evaluate("1 + 1") == "2"
        return False

    def evaluate(self, expression: str) -> str:
        """What an expression is in a worker."""
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}/", expression.encode())
        with urllib.request.urlopen(request, timeout=10) as answer:
            text: str = answer.read().decode()
        return text

    def evaluate_in_mule(self, number: int, expression: str) -> str:
        """What it is in a mule that evaluates messages."""
        answer = self.folder / f"answer.{uuid.uuid4().hex}"
        message = f"{answer}\n{expression}"
        assert self.evaluate(f"uwsgi.mule_msg({message!r}, {number})") == "True"
        try:
            wait_for(f"mule {number} answers", answer.exists)
        except AssertionError:
            raise AssertionError(
                f"mule {number} of {self.folder.name} does not answer {expression}; {self.log[-3000:]}"
            ) from None
        return answer.read_text()

    def events(self, only: str = "") -> list[str]:
        """What has happened, in the processes of this beginning (`mule 2`)."""
        lines = self.events_file.read_text().splitlines() if self.events_file.exists() else []
        return [line for line in lines if only in line]

    def wait_for_event(self, text: str, count: int = 1) -> None:
        """Until it has happened so many times."""
        wait_for(f"{count} times {text!r} in {self.events()}", lambda: len(self.events(text)) >= count)

    def command(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """A command of instar about it."""
        argv = [str(INSTAR_UWSGI.with_name("instar")), *arguments, "--state-dir", str(self.folder / "state")]
        environment = {key: value for key, value in os.environ.items() if not key.startswith(("PYTEST", "COV"))}
        return subprocess.run(argv, capture_output=True, text=True, timeout=100, env=environment, cwd=self.folder)

    def stop(self, sig: signal.Signals) -> int:
        """Ask for the end; the exit code."""
        self.process.send_signal(sig)
        return self.process.wait(20)

    def clean_up(self) -> list[Process]:
        """Kill what is left; returns it."""
        left = kill_all(self._mark)
        self.process.wait(10)
        return left


def neutral(text: str) -> str:
    """Without what differs from run to run."""
    return re.sub(r"\b\d{3,}\b", "N", text)


def gone(pid: int) -> bool:
    """Whether a process has ended."""
    return not alive(pid)
