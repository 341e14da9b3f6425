"""Programs that know nothing of instar: the name stays held while any process of theirs lives."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import pytest
from handler_tools import alive, process_of, wait_for
from test_lock import blocked_in_flock, holders, is_free

from instar.handlers.keeper import run_keeper
from instar.handlers.tree import ProcessGroup


class Kept:
    """A keeper and the program that it runs, which reports through a FIFO-like file of lines."""

    def __init__(self, spawn, lock_path, tmp_path, argv, *, stop_timeout=None, group=None, cwd="/"):
        self.notes = tmp_path / f"notes-{len(list(tmp_path.iterdir()))}"
        env = {"PATH": os.environ["PATH"], "NOTES": str(self.notes), "HOME": "/nowhere"}
        self.keeper = spawn(
            lambda child: run_keeper(process_of(child, lock_path), argv, env, cwd, stop_timeout, group=group)
        )

    def start(self):
        assert self.keeper.hear() == {"event": "standby"}
        self.keeper.arm()
        return self.keeper.hear()["epoch"]

    def note(self, count=1):
        """The first lines of the program's notes."""
        wait_for(lambda: self.notes.exists() and self.notes.read_text().count("\n") >= count)
        return self.notes.read_text().splitlines()


@pytest.fixture
def keep(spawn, lock_path, tmp_path):
    made = []

    def start(argv, **options):
        made.append(Kept(spawn, lock_path, tmp_path, argv, **options))
        return made[-1]

    yield start
    for kept in made:
        for line in kept.notes.read_text().splitlines() if kept.notes.exists() else ():
            if line.isdigit() and alive(int(line)):
                os.kill(int(line), signal.SIGKILL)


def shell(text):
    return ["sh", "-c", text]


def python(text):
    return [sys.executable, "-c", text]


def test_the_program_knows_who_it_is(keep, tmp_path):
    kept = keep(shell('env > "$NOTES.new"; pwd >> "$NOTES.new"; mv "$NOTES.new" "$NOTES"; exit 3'), cwd=str(tmp_path))
    assert kept.start() == 1
    assert kept.keeper.wait() == 3
    lines = set(kept.notes.read_text().splitlines())
    assert {
        "INSTAR_HANDLER=main.work.1",
        "INSTAR_POOL=work",
        "INSTAR_INDEX=1",
        "INSTAR_EPOCH=1",
        "INSTAR_TAGS=fast",
        "INSTAR_GENERATION=3",
        "HOME=/nowhere",
        str(tmp_path),
    } <= lines


def test_nothing_runs_before_the_name_is_ours(keep, spawn, lock_path):
    first = keep(shell('echo $$ > "$NOTES"; exec sleep 120'))
    first.start()
    first.note()
    second = keep(shell('echo $$ > "$NOTES"; exec sleep 120'))
    assert second.keeper.hear() == {"event": "standby"}
    second.keeper.arm()
    wait_for(lambda: blocked_in_flock(second.keeper.pid))
    assert not second.notes.exists()
    first.keeper.release()
    assert first.keeper.wait() == 128 + signal.SIGTERM
    assert second.keeper.hear() == {"event": "active", "epoch": 2}
    second.note()


def test_a_standby_leaves(keep):
    kept = keep(shell('echo > "$NOTES"'))
    assert kept.keeper.hear() == {"event": "standby"}
    kept.keeper.release()
    assert kept.keeper.wait() == 0
    assert not kept.notes.exists()


SHELL_DAEMON = shell('sleep 120 & echo $! > "$NOTES"')
#: Closes all descriptors that it doesn't know, as most Python programs do for their children.
PYTHON_DAEMON = python(
    "import os, subprocess\n"
    "child = subprocess.Popen(['sleep', '120'], start_new_session=True)\n"
    "open(os.environ['NOTES'], 'w').write(f'{child.pid}\\n')\n"
)


@pytest.mark.parametrize("program", [SHELL_DAEMON, PYTHON_DAEMON], ids=["shell", "python"])
def test_a_daemon_keeps_the_name_after_the_program(keep, lock_path, program):
    kept = keep(program)
    kept.start()
    daemon = int(kept.note()[0])
    # The program has ended when the daemon has fallen to the keeper.
    wait_for(lambda: parent(daemon) == kept.keeper.pid)
    assert alive(daemon) and not is_free(lock_path)
    os.kill(daemon, signal.SIGKILL)
    assert kept.keeper.wait() == 0
    assert is_free(lock_path)


def parent(pid):
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def test_a_killed_keeper_leaves_the_name_to_the_program(keep, lock_path):
    kept = keep(shell('echo $$ > "$NOTES"; exec sleep 120'))
    kept.start()
    program = int(kept.note()[0])
    kept.keeper.kill()
    kept.keeper.wait()
    assert not is_free(lock_path)
    assert holders(lock_path) == [program]
    os.kill(program, signal.SIGKILL)
    wait_for(lambda: is_free(lock_path))


def test_the_hole_that_both_guards_leave_is_closed_by_a_group(keep, lock_path):
    """Keeper killed, descriptors closed by the daemon: the name is free while it lives. The group still has it."""
    group = ProcessGroup.create(f"instar-hole-{os.getpid()}")
    if group is None:
        pytest.skip("no writable cgroup v2")
    kept = keep(PYTHON_DAEMON, group=group)
    kept.start()
    daemon = int(kept.note()[0])
    wait_for(lambda: parent(daemon) == kept.keeper.pid)
    kept.keeper.kill()
    kept.keeper.wait()
    assert is_free(lock_path) and alive(daemon)
    assert group.pids() == [daemon]
    assert group.kill_and_wait()
    assert not alive(daemon)
    assert group.remove()


TRAPS = """trap 'echo term >> "$NOTES"; exit 0' TERM
trap 'echo hup >> "$NOTES"' HUP
trap 'echo usr1 >> "$NOTES"' USR1
echo $$ >> "$NOTES"
while :; do sleep 0.05; done"""


def test_release_is_sigterm(keep):
    kept = keep(shell(TRAPS))
    kept.start()
    kept.note()
    kept.keeper.release()
    assert kept.keeper.wait() == 0
    assert kept.note()[1:] == ["term"]


def test_signals_are_passed_on(keep):
    kept = keep(shell(TRAPS))
    kept.start()
    kept.note()
    kept.keeper.kill(signal.SIGHUP)
    kept.note(2)
    kept.keeper.kill(signal.SIGUSR1)
    kept.note(3)
    kept.keeper.kill(signal.SIGTERM)
    assert kept.keeper.wait() == 0
    assert kept.note()[1:] == ["hup", "usr1", "term"]


def test_the_zygote_has_died(keep):
    kept = keep(shell(TRAPS))
    kept.start()
    kept.note()
    os.close(kept.keeper.release_write)
    assert kept.keeper.wait() == 0
    assert kept.note()[1:] == ["term"]


STUBBORN = """trap '' TERM
sh -c 'trap "" TERM; echo $$ >> "$NOTES"; while :; do sleep 0.05; done' &
(setsid sh -c 'trap "" TERM; echo $$ >> "$NOTES"; while :; do sleep 0.05; done' &)
echo $$ >> "$NOTES"
while :; do sleep 0.05; done"""


@pytest.mark.parametrize("how", ["second byte", "two bytes at once", "stop_timeout"])
@pytest.mark.parametrize("grouped", [False, True])
def test_who_does_not_leave_is_killed_with_all(keep, lock_path, how, grouped):
    group = ProcessGroup.create(f"instar-keeper-{os.getpid()}") if grouped else None
    if grouped and group is None:
        pytest.skip("no writable cgroup v2")
    kept = keep(shell(STUBBORN), stop_timeout=0.1 if how == "stop_timeout" else None, group=group)
    kept.start()
    pids = [int(line) for line in kept.note(3)]
    if how == "two bytes at once":
        kept.keeper.stop()
        kept.keeper.release()
        kept.keeper.release()
        kept.keeper.kill(signal.SIGCONT)
    else:
        kept.keeper.release()
        if how == "second byte":
            kept.keeper.release()
    assert kept.keeper.wait() == 128 + signal.SIGKILL
    assert not any(alive(pid) for pid in pids)
    assert is_free(lock_path)
    if group:
        wait_for(group.remove)


def test_leftovers_hear_of_the_release(keep):
    """The program has ended before; its daemon gets the SIGTERM."""
    kept = keep(PYTHON_DAEMON)
    kept.start()
    daemon = int(kept.note()[0])
    wait_for(lambda: parent(daemon) == kept.keeper.pid)
    kept.keeper.release()
    assert kept.keeper.wait() == 0
    assert not alive(daemon)


def test_the_lock_file_is_replaced(keep, lock_path):
    """Somebody else may have the name by now: the program can't be asked, it is ended."""
    kept = keep(shell(STUBBORN))
    kept.start()
    pids = [int(line) for line in kept.note(3)]
    lock_path.unlink()
    assert kept.keeper.hear()["event"] == "lost"
    assert kept.keeper.wait() == 128 + signal.SIGKILL
    assert not any(alive(pid) for pid in pids)


@pytest.mark.parametrize(("argv", "status"), [(["/nowhere/program"], 127), (["/etc"], 126), (["no-such-program"], 127)])
def test_a_program_that_cannot_start(keep, argv, status, capfd):
    kept = keep(argv)
    kept.start()
    assert kept.keeper.wait() == status
    assert f"cannot start {argv[0]}" in capfd.readouterr().err


def test_the_programs_signals_are_the_defaults(keep):
    """A mask or ignored signals that it inherited would make it deaf."""
    kept = keep(shell('grep -E "^Sig(Blk|Ign)" /proc/self/status > "$NOTES.new"; mv "$NOTES.new" "$NOTES"'))
    kept.start()
    assert kept.keeper.wait() == 0
    lines = dict(line.split(":\t") for line in kept.notes.read_text().splitlines())
    blocked, ignored = int(lines["SigBlk"], 16), int(lines["SigIgn"], 16)
    for sig in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGPIPE, signal.SIGCHLD):
        assert not blocked >> (sig - 1) & 1 and not ignored >> (sig - 1) & 1, sig
