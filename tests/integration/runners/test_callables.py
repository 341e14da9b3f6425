"""Callables: in threads of the handler, in a pool of processes, and under a shim."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from runner_tools import LIMIT, Desk, alive, kill, manager, read_pid, wait_for

from instar.jobs import runners
from instar.jobs.runners.base import Phase, RefusedError, Setup

HERE = "callables_for_tests"


@pytest.fixture
def make(home: Path) -> Iterator[Callable[[str], Desk]]:
    desks: list[Desk] = []

    def new(kind: str) -> Desk:
        desks.append(Desk(runners.load(kind)(Setup(kind, folder=home, workers=2))))
        return desks[-1]

    yield new
    for desk in desks:
        desk.clear()
        desk.close()


@pytest.fixture(params=["thread", "process", "local"])
def desk(make: Callable[[str], Desk], request: pytest.FixtureRequest) -> Desk:
    return make(request.param)


@pytest.fixture
def pool(make: Callable[[str], Desk]) -> Desk:
    return make("process")


@pytest.fixture
def threads(make: Callable[[str], Desk]) -> Desk:
    return make("thread")


def call(desk: Desk, name: str, *args, **more):
    return desk.start(target=f"{HERE}:{name}", args=args, **more)


# --- all three ----------------------------------------------------------------------------------------


def test_arguments_and_result(desk: Desk) -> None:
    notice = desk.end(call(desk, "add", 2, kwargs={"b": 3}))
    assert (notice.phase, notice.result, notice.error, notice.succeeded) == (Phase.ENDED, 5, "", True)
    assert notice.started_at is not None
    assert notice.finished_at is not None
    assert desk.end(call(desk, "pair")).result == [1, 2]


@pytest.mark.parametrize(
    ("target", "error"),
    [
        (f"{HERE}:fail", "ValueError: no such file"),
        (f"{HERE}:leave", "SystemExit: 3"),
        (f"{HERE}:unfit", "TypeError: Object of type object is not JSON serializable"),
        (f"{HERE}:missing", f"cannot find 'missing' in {HERE}: check the job's target"),
        (f"{HERE}:LIFE", f"cannot call {HERE}:LIFE: it is not callable (float)"),
        ("no_such_module:main", "ModuleNotFoundError: No module named 'no_such_module'"),
    ],
)
def test_what_goes_wrong_is_told_in_a_line(desk: Desk, target: str, error: str) -> None:
    notice = desk.end(desk.start(target=target))
    assert (notice.phase, notice.error, notice.succeeded) == (Phase.ENDED, error, False)


def test_who_it_is_and_progress(desk: Desk, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("COLOUR", "red")
    assignment = call(desk, "who", str(tmp_path))
    notice = desk.end(assignment)
    job_id, attempt, key, pid, cwd, colour = notice.result
    assert (job_id, attempt, key, colour) == (assignment.job_id, 1, assignment.key, "red")
    assert cwd == str(Path.cwd())
    assert (pid == os.getpid()) == (desk.runner.setup.name == "thread")
    assert notice.progress == {"number": 999}
    if desk.runner.setup.name != "thread":
        assert desk.runner.progress(assignment) == {"number": 999}


def test_a_coroutine_is_cancelled(desk: Desk, tmp_path: Path) -> None:
    assignment = call(desk, "slow", str(tmp_path / "up"))
    wait_for("the call", (tmp_path / "up").exists)
    desk.runner.cancel(assignment)
    notice = desk.end(assignment)
    assert (notice.phase, notice.error) == (Phase.ENDED, "cancelled")
    assert (tmp_path / "up").read_text() == "cancelled"


def test_a_time_limit(desk: Desk, tmp_path: Path) -> None:
    notice = desk.end(call(desk, "slow", str(tmp_path / "up"), timeout=0.3, kill_timeout=5.0))
    assert notice.timed_out
    assert not notice.succeeded


def test_there_may_be_more_than_places(desk: Desk) -> None:
    assignments = [call(desk, "add", number) for number in range(9)]
    assert [desk.end(assignment).result for assignment in assignments] == list(range(9))


# --- threads ------------------------------------------------------------------------------------------


def test_threads_run_no_commands(threads: Desk) -> None:
    with pytest.raises(RefusedError):
        threads.runner.start(threads.assign("true"))


def test_what_a_thread_was_doing_ends_with_the_handler(threads: Desk) -> None:
    assert threads.runner.recover(threads.assign(target=f"{HERE}:add")).phase is Phase.LOST


def test_a_callable_sees_that_it_is_to_end(threads: Desk, tmp_path: Path) -> None:
    assignment = call(threads, "until_cancelled", str(tmp_path / "up"))
    wait_for("the call", (tmp_path / "up").exists)
    threads.runner.cancel(assignment)
    assert threads.end(assignment).result == "left"


def test_release_waits_for_what_finishes_and_names_the_rest(threads: Desk, tmp_path: Path) -> None:
    back = call(threads, "hand_back", str(tmp_path / "up"))
    rest = call(threads, "until_cancelled", str(tmp_path / "rest"))
    waits = call(threads, "add", 1)
    wait_for("the calls", lambda: (tmp_path / "up").exists() and (tmp_path / "rest").exists())
    wait_for("the rest", lambda: threads.runner.release(0.05) == [rest.key])
    assert threads.end(back).phase is Phase.RETURNED
    # It has found a thread that was free, and a runner that begins nothing any more.
    assert threads.end(waits).phase is Phase.NEVER
    assert threads.runner.start(threads.assign(target=f"{HERE}:add", args=(1,))).phase is Phase.NEVER
    threads.runner.cancel(rest)
    assert threads.end(rest).phase is Phase.ENDED
    assert threads.runner.release(LIMIT) == []


# --- processes ----------------------------------------------------------------------------------------


def test_output_of_each_call_is_its_own(pool: Desk) -> None:
    first, second = call(pool, "add", 1), call(pool, "add", 2)
    pool.end(first), pool.end(second)
    assert pool.folder(first).out.read_text() == "adding 1 and 0\n"
    assert pool.folder(second).out.read_text() == "adding 2 and 0\n"
    failed = call(pool, "fail")
    pool.end(failed)
    assert "ValueError: no such\nfile" in pool.folder(failed).err.read_text()


def test_processes_are_kept(pool: Desk, tmp_path: Path) -> None:
    pids = {pool.end(call(pool, "who", "")).result[3] for _ in range(6)}
    assert len(pids) <= 2


def test_a_loop_is_interrupted(pool: Desk, tmp_path: Path) -> None:
    assignment = call(pool, "spin", str(tmp_path / "pid"))
    pid = read_pid(tmp_path / "pid")
    pool.runner.cancel(assignment)
    assert pool.end(assignment).error == "cancelled"
    # The process was spared.
    assert alive(pid)


@pytest.mark.parametrize("now", [False, True])
def test_who_does_not_listen_is_killed_with_what_it_has_started(pool: Desk, tmp_path: Path, now: bool) -> None:
    assignment = call(pool, "stubborn", str(tmp_path / "pids"), kill_timeout=60.0 if now else 0.2)
    pids = wait_for("pids", lambda: (tmp_path / "pids").exists() and (tmp_path / "pids").read_text().split())
    pool.runner.cancel(assignment, now=now)
    notice = pool.end(assignment)
    assert (notice.phase, notice.signal) == (Phase.ENDED, signal.SIGKILL)
    wait_for("the end of both", lambda: not any(alive(int(pid)) for pid in pids))
    assert pool.end(call(pool, "add", 1)).result == 1


def test_a_crash_ends_one_call(pool: Desk) -> None:
    assignment = call(pool, "die", int(signal.SIGSEGV))
    notice = pool.end(assignment)
    assert (notice.phase, notice.signal) == (Phase.ENDED, signal.SIGSEGV)
    assert pool.runner.recover(assignment).signal == signal.SIGSEGV
    assert pool.end(call(pool, "add", 1)).result == 1


def test_a_call_ends_with_its_handler_and_the_next_one_learns_it(pool: Desk, home: Path, tmp_path: Path) -> None:
    assignment = pool.assign(target=f"{HERE}:until", args=(str(tmp_path / "pid"), str(tmp_path / "go")))

    def first():
        runner = runners.load("process")(Setup("process", folder=home))
        runner.open(lambda _: None)
        runner.start(assignment)
        time.sleep(LIMIT)

    pid = manager(first)
    worker = read_pid(tmp_path / "pid")
    kill(pid)
    notice = pool.runner.recover(assignment)
    assert (notice if notice.phase.final else pool.end(assignment)).phase is Phase.LOST
    wait_for("the end", lambda: not alive(worker))


def test_an_end_that_was_not_reported_is_found(pool: Desk, home: Path, tmp_path: Path) -> None:
    assignment = pool.assign(target=f"{HERE}:add", args=(20, 22))

    def first():
        runner = runners.load("process")(Setup("process", folder=home))
        runner.open(lambda _: os.kill(os.getpid(), signal.SIGKILL))
        runner.start(assignment)
        time.sleep(LIMIT)

    os.waitpid(manager(first), 0)
    assert pool.runner.recover(assignment).result == 42


def test_release_of_a_pool(pool: Desk, tmp_path: Path) -> None:
    running = [call(pool, "until", str(tmp_path / f"up{n}"), str(tmp_path / "go")) for n in range(2)]
    waits = call(pool, "add", 1)
    for n in range(2):
        read_pid(tmp_path / f"up{n}")
    assert set(pool.runner.release(0.1)) == {item.key for item in (*running, waits)}
    (tmp_path / "go").touch()
    assert [pool.end(item).result for item in running] == ["done", "done"]
    assert pool.end(waits).phase is Phase.NEVER
    assert pool.runner.release(LIMIT) == []


def test_pythonpath_is_that_of_the_handler(pool: Desk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "release.py").write_text("def number():\n    return 7\n")
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    assert pool.end(pool.start(target="release:number")).result == 7
