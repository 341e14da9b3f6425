"""Packages that the supervisor lends to an application's environment that lacks them."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

from instar.runtime import bootstrap
from instar.supervisor.plan import ABI

PROGRAM = """
import importlib.util, json, sys
spec = importlib.util.spec_from_file_location("bootstrap", sys.argv[1])
bootstrap = importlib.util.module_from_spec(spec)
spec.loader.exec_module(bootstrap)
sys.meta_path.append(bootstrap.fallback_finder(json.loads(sys.argv[2])))
import importlib.metadata
import granian.server.mp
print(importlib.metadata.version("granian"))
"""


def bare(document: dict[str, object]) -> subprocess.CompletedProcess[str]:
    """An interpreter like ours without any installed package."""
    command = [sys.executable, "-I", "-S", "-c", PROGRAM, bootstrap.__file__, json.dumps(document)]
    return subprocess.run(command, capture_output=True, text=True)


def folder() -> str:
    spec = importlib.util.find_spec("granian")
    assert spec is not None
    return str(next(iter(spec.submodule_search_locations or ())))


def test_a_server_is_lent_with_its_version() -> None:
    done = bare({"compiled": {"granian": folder()}, "abi": ABI})
    assert (done.returncode, done.stderr) == (0, "")
    assert Path(folder()).parent.joinpath(f"granian-{done.stdout.strip()}.dist-info").is_dir()


@pytest.mark.parametrize("abi", [".cpython-307m-x86_64-linux-gnu.so", ""])
def test_not_to_another_interpreter(abi: str) -> None:
    done = bare({"compiled": {"granian": folder()}, "abi": abi})
    assert "No module named 'granian'" in done.stderr
