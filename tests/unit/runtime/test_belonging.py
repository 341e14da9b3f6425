"""Which programs are taken for what a killed keeper left."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from instar.runtime.roster import belonging_to

PROGRAM = [sys.executable, "-c", "print('begun', flush=True); input()"]


def test_only_of_the_same_lock_and_epoch(tmp_path: Path) -> None:
    lock, other = tmp_path / "a" / "main.work.1.lock", tmp_path / "b" / "main.work.1.lock"
    programs = [
        subprocess.Popen(
            PROGRAM,
            env={"INSTAR_HANDLER": "main.work.1", "INSTAR_LOCK": str(path), "INSTAR_EPOCH": str(epoch)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        for path, epoch in ((lock, 3), (other, 3), (lock, 4))
    ]
    try:
        for program in programs:
            assert program.stdout is not None
            assert program.stdout.readline() == b"begun\n"
        assert belonging_to(lock, 3) == [programs[0].pid]
    finally:
        for program in programs:
            program.communicate()
