"""Jobs in a real Slurm: one node on this host."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from runner_tools import LIMIT, Desk, kill, manager, wait_for
from slurm_node import Slurm, slurm

from instar.errors import ConfigError
from instar.jobs.runners.base import Assignment, Phase, RefusedError, Setup, UnavailableError
from instar.jobs.runners.slurm import SlurmRunner

#: A job waits for Slurm's scheduler; the first one after a start for some seconds.
LONG = 40.0


@pytest.fixture(scope="module")
def node() -> Iterator[Slurm]:
    with slurm() as running:
        yield running


def setup(node: Slurm, home: Path, **options) -> Setup:
    return Setup("slurm", {"conf": str(node.conf), "poll_min": 0.2, "poll_max": 0.5, "grace": 1.0, **options}, home)


@pytest.fixture
def new_desk(node: Slurm, home: Path) -> Iterator[Callable[..., Desk]]:
    desks: list[Desk] = []

    def make(**options) -> Desk:
        desks.append(Desk(SlurmRunner(setup(node, home, **options))))
        return desks[-1]

    yield make
    for desk in desks:
        desk.clear()
        desk.close()


@pytest.fixture
def desk(new_desk: Callable[..., Desk]) -> Desk:
    return new_desk()


def begun(desk: Desk, assignment: Assignment) -> str:
    """Wait for its program; Slurm's number of it."""
    folder = desk.folder(assignment)
    ticket = wait_for("the ticket", folder.ticket, LONG)
    return ticket.slurm


def test_exit_status_output_result_and_progress(desk: Desk) -> None:
    script = (
        "echo out; echo err >&2; echo '{\"done\": 1}' >>$INSTAR_JOB_PROGRESS; echo '[1]' >$INSTAR_JOB_RESULT; exit 7"
    )
    assignment = desk.start("sh", "-c", script)
    notice = desk.end(assignment, LONG)
    assert (notice.phase, notice.exit_code, notice.signal, notice.result) == (Phase.ENDED, 7, None, [1])
    assert notice.started_at is not None
    assert notice.finished_at is not None
    assert notice.started_at <= notice.finished_at
    folder = desk.folder(assignment)
    assert (folder.out.read_text(), folder.err.read_text()) == ("out\n", "err\n")
    assert desk.runner.progress(assignment) == {"done": 1}
    # However often it is asked: the answer stays.
    assert desk.runner.recover(assignment).exit_code == 7


def test_arguments_environment_and_folder(desk: Desk, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SECRET", "of the handler")
    folder = tmp_path / "it's here"
    folder.mkdir()
    argv = [
        "sh",
        "-c",
        'printf "%s|" "$@" "$PWD" "$COLOUR" "$SECRET" "$INSTAR_JOB_ID"',
        "name",
        "a b",
        "$HOME",
        "it's",
        "*",
    ]
    assignment = desk.start(*argv, cwd=str(folder), env={"COLOUR": "red\nand 'blue'"})
    assert desk.end(assignment, LONG).exit_code == 0
    said = desk.folder(assignment).out.read_text()
    assert said == f"a b|$HOME|it's|*|{folder}|red\nand 'blue'||{assignment.job_id}|"


def test_a_folder_that_is_not_there(desk: Desk) -> None:
    assert desk.end(desk.start("true", cwd="/no/such/folder"), LONG).exit_code == 127


def test_a_callable(desk: Desk) -> None:
    assignment = desk.start(target="callables_for_tests:add", args=(2,), kwargs={"b": 3})
    assert desk.end(assignment, LONG).result == 5


@pytest.mark.parametrize(
    ("params", "error"),
    [
        ({"partition": "nope"}, "Invalid partition name specified"),
        ({"time": "abc"}, "Invalid --time specification"),
        ({"mem": "100G"}, "Requested node configuration is not available"),
        ({"nativeSpecification": "--frob=1"}, "unrecognized option"),
        ({"nativeSpecification": "-J mine"}, "instar sets that itself"),
        ({"job_name": "mine"}, "instar sets that itself"),
    ],
)
def test_what_slurm_refuses_is_refused(desk: Desk, node: Slurm, params: dict, error: str) -> None:
    assignment = desk.assign("true", params=params)
    with pytest.raises(RefusedError, match=error):
        desk.runner.start(assignment)


def test_parameters_reach_slurm(desk: Desk, node: Slurm, caplog: pytest.LogCaptureFixture) -> None:
    params = {"cpus_per_task": 2, "native_specification": "--nice=7", "docker_enabled": "true"}
    assignment = desk.start("sleep", "60", params=params, title="bwa")
    shown = node.run("scontrol", "show", "job", begun(desk, assignment))
    assert "CPUs/Task=2" in shown
    assert "Nice=7" in shown
    assert f"Comment=instar job {assignment.job_id} bwa" in shown
    assert "does nothing with the parameter docker_enabled" in caplog.text


def test_a_successor_finds_what_runs(desk: Desk, node: Slurm, home: Path, tmp_path: Path) -> None:
    assignment = desk.assign("sh", "-c", f"while [ ! -e {tmp_path}/go ]; do sleep 0.05; done; echo whole; exit 3")

    def first():
        runner = SlurmRunner(setup(node, home))
        runner.open(lambda _: None)
        runner.start(assignment)
        time.sleep(LIMIT)

    pid = manager(first)
    number = begun(desk, assignment)
    kill(pid)
    notice = desk.runner.recover(assignment)
    assert (notice.phase, notice.external_id) == (Phase.RUNNING, number)
    (tmp_path / "go").touch()
    assert desk.end(assignment, LONG).exit_code == 3
    assert desk.folder(assignment).out.read_text() == "whole\n"


def test_a_manager_that_dies_before_it_has_heard_from_sbatch(desk: Desk, node: Slurm, home: Path, tmp_path: Path):
    """The window in which a job is Slurm's and no number of it is known."""
    assignment = desk.assign("sh", "-c", f"echo x >>{tmp_path}/runs; sleep 1")

    def first():
        runner = SlurmRunner(setup(node, home))
        runner.open(lambda _: None)
        submit = runner._commands.submit

        def die(*args):
            submit(*args)
            os.kill(os.getpid(), signal.SIGKILL)

        runner._commands.submit = die  # type: ignore[method-assign]
        runner.start(assignment)

    os.waitpid(manager(first), 0)
    assert desk.runner.recover(assignment).phase in (Phase.QUEUED, Phase.RUNNING)
    assert desk.end(assignment, LONG).exit_code == 0
    assert (tmp_path / "runs").read_text() == "x\n"


def test_two_submissions_of_one_attempt_begin_once(desk: Desk, node: Slurm, new_desk, tmp_path: Path) -> None:
    assignment = desk.start("sh", "-c", f"echo x >>{tmp_path}/runs; sleep 1")
    assert new_desk().runner.start(assignment).phase is Phase.QUEUED
    assert desk.end(assignment, LONG).exit_code == 0
    wait_for("the end of both", lambda: node.run("squeue", "-h", f"--name={assignment.key}") == "", LONG)
    assert (tmp_path / "runs").read_text() == "x\n"


def test_an_attempt_that_was_declared_void_never_begins(desk: Desk, node: Slurm, new_desk, tmp_path: Path) -> None:
    assignment = desk.assign("touch", str(tmp_path / "ran"))
    assert desk.runner.recover(assignment).phase is Phase.NEVER
    late = new_desk()
    late.runner.start(assignment)
    # Slurm has it, and its script turns away.
    wait_for("its end in Slurm", lambda: node.jobs().get(assignment.key) == "FAILED", LONG)
    assert late.end(assignment, LONG).phase in (Phase.NEVER, Phase.ENDED)
    assert not (tmp_path / "ran").exists()


def test_cancel_asks_first(desk: Desk, tmp_path: Path) -> None:
    assignment = desk.start(
        "sh", "-c", f"trap 'echo bye; exit 5' TERM; touch {tmp_path}/up; while :; do sleep 0.05; done"
    )
    wait_for("the trap", (tmp_path / "up").exists, LONG)
    desk.runner.cancel(assignment)
    assert desk.end(assignment, LONG).exit_code == 5
    assert desk.folder(assignment).out.read_text() == "bye\n"


@pytest.mark.long
@pytest.mark.parametrize("now", [False, True])
def test_cancel_ends_who_does_not_listen(desk: Desk, tmp_path: Path, now: bool) -> None:
    assignment = desk.start("sh", "-c", f"trap '' TERM; touch {tmp_path}/up; sleep 60 & wait; sleep 60")
    wait_for("the trap", (tmp_path / "up").exists, LONG)
    desk.runner.cancel(assignment, now=now)
    notice = desk.end(assignment, LONG)
    assert notice.phase is Phase.ENDED
    assert not notice.succeeded


def test_cancel_before_it_begins(desk: Desk, node: Slurm, tmp_path: Path) -> None:
    assignment = desk.start("touch", str(tmp_path / "ran"), params={"begin": "now+3600"})
    desk.runner.cancel(assignment)
    assert desk.end(assignment, LONG).phase is Phase.NEVER
    assert node.jobs().get(assignment.key) == "CANCELLED"
    assert not (tmp_path / "ran").exists()


def test_an_administrator_removes_it_from_the_queue(desk: Desk, node: Slurm) -> None:
    assignment = desk.start("true", params={"begin": "now+3600"})
    node.run("scancel", f"--name={assignment.key}")
    notice = desk.end(assignment, LONG)
    # Not begun anew: that would be to disregard them.
    assert notice.phase is Phase.ENDED
    assert "CANCELLED" in notice.error


def test_a_time_limit(desk: Desk) -> None:
    notice = desk.end(desk.start("sleep", "60", timeout=1.0), LONG)
    assert notice.timed_out
    assert not notice.succeeded


@pytest.mark.long
def test_a_job_outlives_its_controller(desk: Desk, node: Slurm, tmp_path: Path, new_desk) -> None:
    """An unreachable controller says nothing about its jobs."""
    assignment = desk.start("sh", "-c", f"while [ ! -e {tmp_path}/go ]; do sleep 0.05; done; exit 7")
    begun(desk, assignment)
    node.end_controller()
    try:
        with pytest.raises(UnavailableError):
            desk.runner.recover(assignment)
        other = desk.assign("true")
        with pytest.raises(UnavailableError, match="cannot tell whether Slurm has taken"):
            desk.runner.start(other)
        with pytest.raises(UnavailableError):
            desk.runner.cancel(other)
        with pytest.raises(AssertionError, match="no final notice"):
            desk.end(assignment, 1.0)
    finally:
        node.start_controller()
    assert desk.runner.recover(assignment).phase is Phase.RUNNING
    (tmp_path / "go").touch()
    assert desk.end(assignment, LONG).exit_code == 7


def test_an_end_that_only_slurm_knows(desk: Desk, node: Slurm) -> None:
    """The batch script was killed, or its node's disk was full: nothing was written."""
    assignment = desk.start("sh", "-c", "kill -KILL $PPID; sleep 60")
    notice = desk.end(assignment, LONG)
    assert (notice.phase, notice.exit_code, notice.signal) == (Phase.ENDED, None, signal.SIGKILL), notice


def test_what_slurm_has_forgotten_is_lost(desk: Desk, node: Slurm) -> None:
    """It has begun, has written no end, and no memory of it is left."""
    assignment = desk.assign("true")
    folder = desk.folder(assignment)
    folder.order({})
    (folder.path / "ticket").write_text('{"slurm": "999999", "at": 1.0}')
    assert desk.runner.recover(assignment).phase is Phase.RUNNING
    assert desk.end(assignment, LONG).phase is Phase.LOST


def test_wrong_options(node: Slurm, home: Path, caplog: pytest.LogCaptureFixture) -> None:
    SlurmRunner(setup(node, home, pol_min=1))
    assert "does nothing with the option pol_min" in caplog.text
    with pytest.raises(ConfigError, match="must be a number of seconds"):
        SlurmRunner(setup(node, home, poll_min="often"))


def test_without_its_commands(home: Path) -> None:
    desk = Desk(SlurmRunner(Setup("slurm", {"commands": "/no/such/folder"}, home)))
    with pytest.raises(UnavailableError, match="install Slurm's commands"):
        desk.runner.start(desk.assign("true"))
    desk.close()
