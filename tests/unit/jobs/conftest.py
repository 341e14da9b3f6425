from __future__ import annotations

import contextlib
import itertools
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import quote

import pytest

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[1] / "handlers"))
sys.path.insert(0, str(Path(__file__).parents[2] / "integration/runners"))

from job_tools import TestHolder, moves, watch_moves
from postgres_server import NoPostgresError, server
from slurm_node import Slurm, slurm

from instar.jobs.plan import Destination, JobPlan, RunnerPlan
from instar.jobs.routing import completed
from instar.jobs.states import MOVES
from instar.jobs.store import JobStore

_numbers = itertools.count(1)
#: In front of sbatch: interrupts who has called it, once.
SBATCH = """\
#!/bin/sh
for word; do case $word in --chdir=*) folder=${word#*=};; esac; done
mv %(act)s %(act)s.$$ 2>/dev/null || exec %(sbatch)s "$@"
read -r when sig <%(act)s.$$
if [ "$when" = after ]; then answer=$(%(sbatch)s "$@"); kill -"$sig" $PPID; echo "$answer"; exit; fi
kill -"$sig" $PPID
if [ "$when" = late ]; then until [ -e "$folder/ticket" ]; do sleep 0.02; done; fi
exec %(sbatch)s "$@"
"""


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    """Connection string of a server."""
    pytest.importorskip("psycopg", reason="psycopg is not installed (pip install instar[postgres])")
    with contextlib.ExitStack() as stack:
        try:
            address = stack.enter_context(server())
        except NoPostgresError as error:
            pytest.skip(str(error))
        yield address


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request, tmp_path: Path) -> str:
    """Address of an empty store, of each kind."""
    if request.param == "sqlite":
        return str(tmp_path / "jobs.db")
    import psycopg

    address = request.getfixturevalue("postgres")
    schema = f"jobs_{next(_numbers)}"
    with psycopg.connect(address, autocommit=True) as connection:
        connection.execute(f"CREATE SCHEMA {schema}")
    words = dict(word.split("=", 1) for word in address.split())
    return f"postgresql:///postgres?host={quote(words['host'])}&user=postgres&options=-csearch_path%3D{schema}"


@pytest.fixture
def store(url: str) -> Iterator[JobStore]:
    """A store that has seen no move which isn't in the table, when the test is over."""
    with JobStore.open(url) as store:
        watch_moves(url)
        yield store
        assert {(before, after) for _, before, after in moves(url)} <= set(MOVES)


@pytest.fixture
def hold(tmp_path: Path) -> Iterator[Callable[..., TestHolder]]:
    """Take a name. `elsewhere` is another state directory: then the earlier holder lives on, and is fenced."""
    with contextlib.ExitStack() as stack:

        def take(name: str = "main.jobs.1", elsewhere: str = "") -> TestHolder:
            holder = TestHolder(name, tmp_path / f"handlers{elsewhere}" / f"{name}.lock")
            stack.callback(holder.close)
            return holder

        yield take


@pytest.fixture(scope="module")
def node() -> Iterator[Slurm]:
    with slurm() as running:
        yield running


@pytest.fixture
def slurm_plan(node: Slurm, url: str, tmp_path: Path) -> JobPlan:
    """With an sbatch that does what the file `act` says."""
    programs = tmp_path / "programs"
    programs.mkdir()
    for name in ("squeue", "scancel", "scontrol", "sacct"):
        (programs / name).symlink_to(node.program(name))
    sbatch = programs / "sbatch"
    sbatch.write_text(SBATCH % {"act": tmp_path / "act", "sbatch": node.program("sbatch")})
    sbatch.chmod(0o755)
    options = {"conf": str(node.conf), "commands": str(programs), "poll_min": 0.2, "poll_max": 0.5, "grace": 1.0}
    place = {"runners": (RunnerPlan("slurm", "slurm", options),), "destinations": (Destination("slurm", "slurm"),)}
    values = {"store": url, "folder": str(tmp_path / "jobs"), "pool": "jobs", "poll": 0.1, **place}
    return completed(JobPlan(**values, default_destination="slurm"))
