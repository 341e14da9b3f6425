"""What a started program may do."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from instar.system import Rights, System, bounded

_SAY = "import os; print([line.split()[1] for line in open('/proc/self/status') if line[:6] == 'NoNewP'], os.umask(0))"


def said(folder: Path, rights: Rights | None) -> str:
    system, path = System(), folder / "out"
    fd = system.open_append(path)
    process = system.spawn([sys.executable, "-c", _SAY], env={}, cwd="/", output=fd, rights=rights)
    os.close(fd)
    assert system.finish(process) == 0
    return path.read_text().strip()


def privileges_of_this_thread() -> str:
    status = Path(f"/proc/self/task/{threading.get_native_id()}/status").read_text()
    return next(line.split()[1] for line in status.splitlines() if line.startswith("NoNewPrivs"))


def test_a_program_is_bounded_and_we_are_not(tmp_path: Path) -> None:
    before = privileges_of_this_thread()
    assert said(tmp_path, Rights(umask=0o137, no_new_privs=True)) == f"['1'] {0o137}"
    assert privileges_of_this_thread() == before


def test_without_rights_it_is_like_us(tmp_path: Path) -> None:
    umask = os.umask(0o22)
    try:
        assert said(tmp_path, None) == f"['{privileges_of_this_thread()}'] {0o22}"
    finally:
        os.umask(umask)


def test_what_cannot_start_raises_here() -> None:
    with pytest.raises(FileNotFoundError):
        bounded(lambda: subprocess.run(["/nowhere/program"], check=False))
