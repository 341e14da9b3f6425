"""Local jobs: how they end is known, whoever dies meanwhile, and each attempt begins at most once."""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from runner_tools import LIMIT, Desk, alive, kill, manager, read_pid, wait_for

from instar.jobs.folder import Folder
from instar.jobs.runners.base import Phase, RefusedError, Setup
from instar.jobs.runners.local import LocalRunner

NewDesk = Callable[[], Desk]


def shim_of(desk: Desk, assignment) -> int:
    ticket = desk.folder(assignment).ticket()
    assert ticket is not None
    return ticket.pid


# --- how it ends --------------------------------------------------------------------------------------


@pytest.mark.parametrize("code", [0, 7, 255])
def test_the_exit_status_is_the_programs_own(desk: Desk, code: int) -> None:
    notice = desk.end(desk.python(f"raise SystemExit({code})"))
    assert (notice.phase, notice.exit_code, notice.signal) == (Phase.ENDED, code, None)
    assert notice.succeeded == (code == 0)
    assert notice.started_at is not None
    assert notice.finished_at is not None
    assert notice.started_at <= notice.finished_at <= time.time()


def test_the_signal_that_ended_it_is_known(desk: Desk) -> None:
    notice = desk.end(desk.python("import os; os.kill(os.getpid(), 9)"))
    assert (notice.exit_code, notice.signal) == (None, signal.SIGKILL)


@pytest.mark.parametrize(
    ("argv", "cwd", "code", "text"),
    [
        (["/no/such/program"], "", 127, "cannot start /no/such/program: No such file or directory"),
        (["/etc/passwd"], "", 126, "cannot start /etc/passwd: Permission denied"),
        (["true"], "/no/such/folder", 127, "cannot start true in /no/such/folder: No such file or directory"),
    ],
)
def test_what_cannot_be_started_ends_as_in_a_shell(desk: Desk, argv, cwd, code, text) -> None:
    assignment = desk.start(*argv, cwd=cwd)
    assert desk.end(assignment).exit_code == code
    assert desk.folder(assignment).err.read_text() == text + "\n"


def test_a_zero_byte_is_refused(desk: Desk) -> None:
    with pytest.raises(RefusedError, match="zero byte"):
        desk.runner.start(desk.assign("echo", "a\0b"))


def test_output_result_and_progress_arrive(desk: Desk) -> None:
    assignment = desk.start(
        "sh",
        "-c",
        "echo out; echo err >&2; echo '{\"done\": 1}' >>$INSTAR_JOB_PROGRESS; echo '[1,2]' >$INSTAR_JOB_RESULT",
    )
    end = desk.end(assignment)
    assert (end.result, end.progress) == ([1, 2], {"done": 1})
    folder = desk.folder(assignment)
    assert (folder.out.read_text(), folder.err.read_text()) == ("out\n", "err\n")
    assert desk.runner.progress(assignment) == {"done": 1}


def test_a_result_that_is_no_json_is_an_error(desk: Desk) -> None:
    notice = desk.end(desk.start("sh", "-c", "echo {oops >$INSTAR_JOB_RESULT"))
    assert notice.exit_code == 0
    assert "not JSON" in notice.error
    assert not notice.succeeded


def test_only_whole_lines_of_progress_count(desk: Desk) -> None:
    assignment = desk.start("sh", "-c", 'printf \'{"done": 1}\\n{"do\' >$INSTAR_JOB_PROGRESS')
    desk.end(assignment)
    assert desk.runner.progress(assignment) == {"done": 1}


def test_environment_and_folder(desk: Desk, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("INSTAR_HANDLER", "main.jobs.1")
    monkeypatch.setenv("LISTEN_FDS", "3")
    monkeypatch.setenv("COLOUR", "red")
    text = "import os, json; print(json.dumps([dict(os.environ), os.getcwd()]))"
    given = desk.python(text, env={"SIZE": "9"}, cwd=str(tmp_path))
    fresh = desk.python(text)
    assert desk.end(given).succeeded
    import json

    environment, cwd = json.loads(desk.folder(given).out.read_text())
    assert cwd == str(tmp_path)
    assert environment["SIZE"] == "9"
    assert environment["COLOUR"] == "red"
    assert environment["INSTAR_JOB_ID"] == str(given.job_id)
    assert environment["INSTAR_JOB_DIR"] == str(desk.folder(given).path)
    assert not {"INSTAR_HANDLER", "LISTEN_FDS"} & set(environment)
    desk.end(fresh)
    assert json.loads(desk.folder(fresh).out.read_text())[1] == str(desk.folder(fresh).work)


def test_the_program_inherits_nothing_but_its_lock(desk: Desk) -> None:
    assignment = desk.start("sh", "-c", "ls -l /proc/$$/fd; grep -E 'Sig(Blk|Ign)' /proc/self/status")
    desk.end(assignment)
    folder = desk.folder(assignment)
    lines = folder.out.read_text().splitlines()
    files = [line.partition(" -> ")[2] for line in lines[1:-2]]
    assert files == ["/dev/null", str(folder.out), str(folder.err), str(folder.lock)]
    # Signals 32 and 33 are the C library's own (signal(7)): what whoever started us set for them can't be undone here.
    assert [int(line.split()[1], 16) & ~(0b11 << 31) for line in lines[-2:]] == [0, 0]


# --- once ---------------------------------------------------------------------------------------------


def test_an_attempt_that_was_declared_void_never_begins(new_desk: NewDesk, tmp_path: Path) -> None:
    old, new = new_desk(), new_desk()
    assignment = old.assign("touch", str(tmp_path / "ran"))
    assert new.runner.recover(assignment).phase is Phase.NEVER
    assert old.runner.start(assignment).phase is Phase.NEVER
    new.runner.discard(assignment)
    # Its traces stay, for one that was stopped and is continued much later.
    assert old.runner.start(assignment).phase is Phase.NEVER
    assert not (tmp_path / "ran").exists()


def test_a_second_start_finds_the_first(new_desk: NewDesk, tmp_path: Path) -> None:
    first, second = new_desk(), new_desk()
    assignment = first.start("sh", "-c", f"echo x >>{tmp_path}/runs; sleep 0.2")
    again = second.runner.start(assignment)
    assert again.phase is Phase.RUNNING
    assert again.external_id.split("@")[0] == str(shim_of(first, assignment))
    assert first.end(assignment).exit_code == second.end(assignment).exit_code == 0
    assert (tmp_path / "runs").read_text() == "x\n"


def test_of_many_that_start_and_one_that_declares_it_void_one_wins(new_desk: NewDesk, tmp_path: Path) -> None:
    desks = [new_desk() for _ in range(4)]
    for number in range(25):
        runs = tmp_path / f"runs{number}"
        assignment = desks[0].assign("sh", "-c", f"echo x >>{runs}")
        barrier = threading.Barrier(len(desks))
        said: list[Phase] = []

        def take_part(desk, assignment=assignment, barrier=barrier, said=said):
            barrier.wait(LIMIT)
            act = desk.runner.recover if desk is desks[0] else desk.runner.start
            said.append(act(assignment).phase)

        threads = [threading.Thread(target=take_part, args=(desk,)) for desk in desks]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(LIMIT)
        began = {phase is not Phase.NEVER for phase in said}
        assert len(said) == len(desks)
        assert len(began) == 1, said
        if began == {True}:
            assert desks[0].end(assignment).exit_code == 0
        assert (runs.read_text() if runs.exists() else "") == ("x\n" if began == {True} else "")


def test_a_manager_that_was_stopped_starts_nothing_later(new_desk: NewDesk, home: Path, tmp_path: Path) -> None:
    desk = new_desk()
    assignment = desk.assign("touch", str(tmp_path / "ran"))
    ready = tmp_path / "ready"

    def zombie():
        runner = LocalRunner(Setup("local", folder=home))
        runner.open(lambda _: None)
        ask = runner._ask

        def stop_before(*args):
            ready.touch()
            os.kill(os.getpid(), signal.SIGSTOP)
            return ask(*args)

        runner._ask = stop_before  # type: ignore[method-assign]
        assert runner.start(assignment).phase is Phase.NEVER
        runner.close()

    pid = manager(zombie)
    wait_for("the stop", ready.exists)
    assert os.waitpid(pid, os.WUNTRACED)[0] == pid
    assert desk.runner.recover(assignment).phase is Phase.NEVER
    os.kill(pid, signal.SIGCONT)
    assert os.waitpid(pid, 0) == (pid, 0)
    assert not (tmp_path / "ran").exists()


# --- who dies -----------------------------------------------------------------------------------------


def test_a_job_outlives_its_manager_and_the_successor_learns_how_it_ended(new_desk: NewDesk, home: Path, tmp_path):
    desk = new_desk()
    go = tmp_path / "go"
    assignment = desk.assign("sh", "-c", f"echo begun; while [ ! -e {go} ]; do sleep 0.01; done; echo whole; exit 7")

    def first():
        runner = LocalRunner(Setup("local", folder=home))
        runner.open(lambda _: None)
        runner.start(assignment)
        time.sleep(LIMIT)

    pid = manager(first)
    wait_for("the job", lambda: desk.folder(assignment).out.exists() and desk.folder(assignment).out.read_text())
    kill(pid)
    notice = desk.runner.recover(assignment)
    assert notice.phase is Phase.RUNNING
    go.touch()
    end = desk.end(assignment)
    assert (end.phase, end.exit_code) == (Phase.ENDED, 7)
    assert desk.folder(assignment).out.read_text() == "begun\nwhole\n"
    # However often, and by whom: the answer stays.
    assert new_desk().runner.recover(assignment).exit_code == 7


def test_a_launcher_that_was_killed_costs_nothing(desk: Desk, tmp_path: Path) -> None:
    running = desk.start("sh", "-c", f"while [ ! -e {tmp_path}/go ]; do sleep 0.01; done; exit 3")
    own = desk.runner._own
    os.kill(own._process.pid, signal.SIGKILL)
    own._process.wait()
    assert desk.end(desk.start("true")).exit_code == 0
    (tmp_path / "go").touch()
    assert desk.end(running).exit_code == 3


def test_a_launcher_ends_with_its_manager(home: Path, tmp_path: Path) -> None:
    pids = tmp_path / "pid"

    def first():
        runner = LocalRunner(Setup("local", folder=home))
        runner.open(lambda _: None)
        pids.write_text(str(runner._own._process.pid))
        time.sleep(LIMIT)

    pid = manager(first)
    launcher = read_pid(pids)
    assert alive(launcher)
    kill(pid)
    wait_for("its end", lambda: not alive(launcher))


def test_without_its_shim_a_job_runs_on_and_is_lost_at_its_end(desk: Desk, tmp_path: Path) -> None:
    assignment = desk.start("sh", "-c", f"while [ ! -e {tmp_path}/go ]; do sleep 0.01; done; exit 0")
    os.kill(shim_of(desk, assignment), signal.SIGKILL)
    wait_for("the end of the shim", lambda: not desk.folder(assignment).responsible())
    assert desk.runner.recover(assignment).phase is Phase.RUNNING
    (tmp_path / "go").touch()
    notice = desk.end(assignment)
    assert notice.phase is Phase.LOST
    assert notice.exit_code is None
    assert not notice.succeeded


@pytest.mark.parametrize("launcher", ["cgroup", "no cgroup"], indirect=True)
@pytest.mark.parametrize("now", [False, True])
def test_without_its_shim_a_job_can_be_cancelled(desk: Desk, tmp_path: Path, now: bool) -> None:
    assignment = desk.start(
        "sh", "-c", f"trap '' TERM; echo $$ >{tmp_path}/pid; sleep 60 & wait; sleep 60", kill_timeout=0.2
    )
    pid = read_pid(tmp_path / "pid")
    os.kill(shim_of(desk, assignment), signal.SIGKILL)
    wait_for("the end of the shim", lambda: not desk.folder(assignment).responsible())
    desk.runner.cancel(assignment, now=now)
    assert desk.end(assignment).phase is Phase.LOST
    assert not alive(pid)


def test_traces_that_are_gone_are_no_proof_that_nothing_has_begun(new_desk: NewDesk, home: Path) -> None:
    desk = new_desk()
    before_the_folder = desk.assign("true", dispatched_at=time.time() - 3600)
    assert desk.runner.recover(before_the_folder).phase is Phase.LOST
    known = desk.assign("true", external_id="1@2")
    assert desk.runner.recover(known).phase is Phase.LOST


# --- the end on request -------------------------------------------------------------------------------

#: A daemon that keeps no descriptor and hears no SIGTERM.
DAEMON = """
import os, signal, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        os.closerange(3, 100)
        open(sys.argv[1], 'w').write(str(os.getpid()))
        time.sleep(60)
    os._exit(0)
os.wait()
while not os.path.exists(sys.argv[1]): time.sleep(0.01)
if len(sys.argv) > 2: sys.exit(int(sys.argv[2]))
time.sleep(60)
"""


def test_cancel_asks_first(desk: Desk, tmp_path: Path) -> None:
    assignment = desk.start(
        "sh", "-c", f"trap 'echo bye; exit 5' TERM; touch {tmp_path}/up; while :; do sleep 0.01; done"
    )
    wait_for("the trap", (tmp_path / "up").exists)
    desk.runner.cancel(assignment)
    desk.runner.cancel(assignment)
    assert desk.end(assignment).exit_code == 5
    assert desk.folder(assignment).out.read_text() == "bye\n"


@pytest.mark.parametrize("launcher", ["cgroup", "no cgroup"], indirect=True)
@pytest.mark.parametrize("now", [False, True])
def test_cancel_ends_the_whole_tree(desk: Desk, tmp_path: Path, now: bool) -> None:
    assignment = desk.python(DAEMON, str(tmp_path / "pid"), kill_timeout=60.0 if now else 0.2)
    daemon = read_pid(tmp_path / "pid")
    desk.runner.cancel(assignment, now=now)
    assert desk.end(assignment).signal == signal.SIGKILL
    assert not alive(daemon)


def test_cancel_before_the_start(desk: Desk, tmp_path: Path) -> None:
    assignment = desk.assign("touch", str(tmp_path / "ran"))
    desk.runner.cancel(assignment)
    assert desk.end(assignment).phase is Phase.NEVER
    assert desk.runner.start(assignment).phase is Phase.NEVER
    assert not (tmp_path / "ran").exists()


def test_cancel_after_the_end_changes_nothing(desk: Desk) -> None:
    assignment = desk.start("true")
    desk.end(assignment)
    desk.runner.cancel(assignment, now=True)
    assert desk.runner.recover(assignment).exit_code == 0


def test_a_time_limit_holds_without_a_manager(new_desk: NewDesk, home: Path) -> None:
    desk = new_desk()
    assignment = desk.assign("sleep", "60", timeout=0.3)

    def first():
        runner = LocalRunner(Setup("local", folder=home))
        runner.open(lambda _: None)
        runner.start(assignment)

    pid = manager(first)
    os.waitpid(pid, 0)
    folder = desk.folder(assignment)
    wait_for("the end", folder.exit)
    notice = desk.runner.recover(assignment)
    assert (notice.phase, notice.signal, notice.timed_out) == (Phase.ENDED, signal.SIGTERM, True)


@pytest.mark.parametrize("launcher", ["cgroup", "no cgroup"], indirect=True)
def test_what_a_job_leaves_behind_ends_with_it(desk: Desk, tmp_path: Path) -> None:
    assignment = desk.python(DAEMON, str(tmp_path / "pid"), "4", kill_timeout=0.2)
    assert desk.end(assignment).exit_code == 4
    assert not alive(read_pid(tmp_path / "pid"))


# --- who may ------------------------------------------------------------------------------------------


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_another_user_cannot_have_jobs_started(desk: Desk) -> None:
    path = desk.runner._own.path
    wait_for("the launcher", path.exists)
    path.chmod(0o666)
    path.parent.chmod(0o711)

    def stranger():
        os.chdir(path.parent)
        os.setgroups([])
        os.setresgid(65534, 65534, 65534)
        os.setresuid(65534, 65534, 65534)
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as sock:
            sock.settimeout(LIMIT)
            sock.connect(path.name)
            try:
                sock.send(b"{}")
                assert sock.recv(9) == b""
            except ConnectionError:
                # Turned away with the request unread.
                pass

    assert os.waitpid(manager(stranger), 0)[1] == 0


def test_an_old_void_ticket_is_swept(new_desk: NewDesk, home: Path) -> None:
    desk = new_desk()
    assignment = desk.assign("true")
    desk.runner.recover(assignment)
    folder = desk.folder(assignment)
    old = time.time() - 30 * 86400
    os.utime(folder.path, (old, old))
    new_desk()
    assert not folder.path.exists()
    assert isinstance(folder, Folder)
