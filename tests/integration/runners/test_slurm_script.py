"""The batch script by itself, under the shells that nodes have as /bin/sh."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest
from runner_tools import LIMIT, wait_for

from instar.jobs.folder import Folder
from instar.jobs.runners.slurm.script import TURNED_AWAY, script


@pytest.fixture(params=["dash", "bash --posix"])
def shell(request: pytest.FixtureRequest) -> list[str]:
    argv = request.param.split()
    if not shutil.which(argv[0]):
        pytest.skip(f"no {argv[0]} here (apt-get install {argv[0]})")
    return argv


def begin(shell: list[str], folder: Folder, *argv: str, cwd: str = "/") -> subprocess.Popen[bytes]:
    path = folder.path / "script"
    path.write_text(script(folder, argv, cwd))
    return subprocess.Popen([*shell, str(path)], env={**os.environ, "SLURM_JOB_ID": "17"}, start_new_session=True)


def test_it_ends_as_the_program(shell: list[str], tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    assert begin(shell, folder, "sh", "-c", "exit 200").wait(LIMIT) == 200
    assert folder.exit().code == 200
    assert folder.ticket().slurm == "17"


def test_the_ticket_is_taken_once(shell: list[str], tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    assert folder.void()
    assert begin(shell, folder, "touch", str(tmp_path / "ran")).wait(LIMIT) == TURNED_AWAY
    assert not (tmp_path / "ran").exists()
    assert folder.exit() is None


@pytest.mark.parametrize(("argv", "code"), [(["A=b"], 127), (["exit", "3"], 127), (["/etc/passwd"], 126)])
def test_words_of_the_shell_mean_nothing(shell: list[str], tmp_path: Path, argv: list[str], code: int) -> None:
    folder = Folder(tmp_path)
    assert begin(shell, folder, *argv).wait(LIMIT) == code
    assert folder.exit().code == code


def test_signals_for_all_do_not_hide_how_it_ended(shell: list[str], tmp_path: Path) -> None:
    for number in range(10):
        folder = Folder(tmp_path / str(number))
        folder.path.mkdir()
        up = folder.path / "up"
        program = f"trap 'exit 5' TERM; touch {up}; while :; do sleep 0.01; done"
        process = begin(shell, folder, "sh", "-c", program)
        wait_for("the program", up.exists)
        os.killpg(process.pid, signal.SIGTERM)
        time.sleep(number / 1000)
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGTERM)
        assert process.wait(LIMIT) == 5
        assert folder.exit().code == 5
