"""The traps of flock: each test shows that a name is never held twice, and never longer than by its holder."""

from __future__ import annotations

import ast
import fcntl
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from handler_tools import LIMIT, alive, wait_for

from instar import handlers
from instar.handlers import filesystem, lock
from instar.handlers.errors import LockError
from instar.handlers.lock import Contest, NameLock, contest, holders


def is_free(path: Path) -> bool:
    probe = NameLock(path)
    free = probe.acquire(blocking=False)
    probe.close()
    return free


def held_by(spawn, path, then=lambda child, held: None):
    """A process that holds the lock and has run `then`; it lives until it is told to end."""

    def body(child):
        held = NameLock(path)
        held.acquire()
        child.say(held=held.holds(), extra=then(child, held))
        child.await_order()

    child = spawn(body)
    message = child.hear()
    assert message["held"]
    child.extra = message["extra"]
    return child


def waiting_for(spawn, path):
    """A process that is blocked in the wait for the lock."""

    def body(child):
        waiting = NameLock(path)
        threading.Thread(target=lambda: (waiting.acquire(), child.say(got=os.getpid())), daemon=True).start()
        child.await_order()

    child = spawn(body)
    wait_for(lambda: blocked_in_flock(child.pid))
    return child


def blocked_in_flock(pid: int) -> bool:
    """Whether a waiter of this process stands in the kernel's list (proc_locks(5): "->")."""
    return any(fields[1] == "->" and int(fields[5]) == pid for fields in map(str.split, Path("/proc/locks").open()))


def test_one_holder(spawn, lock_path):
    child = held_by(spawn, lock_path)
    assert not is_free(lock_path)
    assert holders(lock_path) == [child.pid]
    child.tell()
    child.wait()
    assert is_free(lock_path)
    assert holders(lock_path) == []


def test_contest_tells_takers_from_waiters(spawn, lock_path):
    assert contest(lock_path) == Contest(frozenset(), frozenset())
    holder = held_by(spawn, lock_path)
    waiter = waiting_for(spawn, lock_path)
    assert contest(lock_path) == Contest(frozenset({holder.pid}), frozenset({waiter.pid}))
    holder.kill()
    assert waiter.hear() == {"got": waiter.pid}
    assert contest(lock_path) == Contest(frozenset({waiter.pid}), frozenset())


def test_a_killed_holder_passes_it_on(spawn, lock_path):
    holder, waiter = held_by(spawn, lock_path), waiting_for(spawn, lock_path)
    assert waiter.silent()
    holder.kill()
    assert waiter.hear() == {"got": waiter.pid}


def test_a_stopped_holder_keeps_it_until_it_is_killed(spawn, lock_path):
    holder, waiter = held_by(spawn, lock_path), waiting_for(spawn, lock_path)
    holder.stop()
    assert waiter.silent() and not is_free(lock_path)
    holder.kill()
    assert waiter.hear()


def _sleep() -> None:
    time.sleep(120)


def forked(child, held):
    pid = os.fork()
    if pid == 0:
        _sleep()
    return pid


def forked_while_threads_run(child, held):
    threading.Thread(target=_sleep, daemon=True).start()
    return forked(child, held)


def multiprocessing_fork(child, held):
    process = multiprocessing.get_context("fork").Process(target=_sleep)
    process.start()
    return process.pid


def popen(child, held):
    return subprocess.Popen(["sleep", "120"]).pid


def popen_open_descriptors(child, held):
    return subprocess.Popen(["sleep", "120"], close_fds=False).pid


def popen_with_preexec(child, held):
    return subprocess.Popen(["sleep", "120"], close_fds=False, preexec_fn=lambda: None).pid


@pytest.mark.parametrize(
    "start",
    [forked, forked_while_threads_run, multiprocessing_fork, popen, popen_open_descriptors, popen_with_preexec],
)
def test_children_do_not_keep_it(spawn, lock_path, start):
    holder = held_by(spawn, lock_path, start)
    assert not is_free(lock_path)
    holder.kill()
    holder.wait()
    try:
        assert alive(holder.extra)
        # The child has closed its copy at its start, which may not be over.
        wait_for(lambda: is_free(lock_path))
    finally:
        os.kill(holder.extra, signal.SIGKILL)


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_multiprocessing_children_do_not_keep_it(tmp_path, lock_path, method):
    """In a program of its own, with the guard that these methods need."""
    script = tmp_path / "program.py"
    script.write_text(f"""
import multiprocessing, os, sys, time
from pathlib import Path
from instar.handlers.lock import NameLock

def work(fd_path):
    print(os.getpid(), flush=True)
    time.sleep(120)

if __name__ == "__main__":
    held = NameLock(Path({str(lock_path)!r}))
    held.acquire()
    multiprocessing.get_context({method!r}).Process(target=work, args=("",), daemon=True).start()
    time.sleep(120)
""")
    program = subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE, text=True, start_new_session=True)
    try:
        worker = int(program.stdout.readline())
        assert not is_free(lock_path)
        program.kill()
        program.wait()
        assert alive(worker)
        wait_for(lambda: is_free(lock_path))
    finally:
        os.killpg(program.pid, signal.SIGKILL)
        program.wait()
        program.stdout.close()


def test_a_child_of_a_waiter_does_not_become_a_holder(spawn, lock_path):
    """The wait belongs to the open file: a child that had inherited it would share the lock."""
    holder = held_by(spawn, lock_path)

    def body(child):
        waiting = NameLock(lock_path)
        thread = threading.Thread(target=waiting.acquire, daemon=True)
        thread.start()
        wait_for(lambda: blocked_in_flock(os.getpid()))
        pid = os.fork()
        if pid == 0:
            _sleep()
        child.say(pid=pid)
        thread.join()
        child.say(got=True)
        child.await_order()

    waiter = spawn(body)
    grandchild = waiter.hear()["pid"]
    try:
        holder.kill()
        assert waiter.hear() == {"got": True}
        wait_for(lambda: holders(lock_path) == [waiter.pid])
        waiter.kill()
        waiter.wait()
        assert alive(grandchild)
        assert is_free(lock_path)
    finally:
        os.kill(grandchild, signal.SIGKILL)


def test_closing_in_a_child_leaves_the_parent_its_lock(spawn, lock_path):
    def ended_child(child, held):
        pid = os.fork()
        if pid == 0:
            held.close()
            os._exit(0)
        os.waitpid(pid, 0)
        return held.holds()

    holder = held_by(spawn, lock_path, ended_child)
    assert holder.extra is True
    assert not is_free(lock_path)


def test_in_a_child_it_is_not_held(spawn, lock_path):
    def look(child, held):
        pid = os.fork()
        if pid == 0:
            try:
                held.fd  # noqa: B018
            except LockError:
                os._exit(1 if held.holds() else 0)
            os._exit(2)
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

    assert held_by(spawn, lock_path, look).extra == 0


def test_nothing_ever_unlocks_or_unlinks():
    """LOCK_UN in a forked child would unlock the parent; an unlinked file would let a second holder in."""
    for path in Path(handlers.__file__).parent.glob("*.py"):
        names = {node.attr for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Attribute)}
        assert not names & {"LOCK_UN", "unlink", "lockf"}, path


@pytest.mark.parametrize("how", ["unlinked", "replaced", "folder gone"])
def test_a_replaced_file_is_noticed_by_its_holder(lock_path, how):
    held = NameLock(lock_path)
    held.acquire()
    assert held.holds()
    if how == "replaced":
        lock_path.with_suffix(".new").write_bytes(b"")
        lock_path.with_suffix(".new").rename(lock_path)
    else:
        lock_path.unlink()
        if how == "folder gone":
            lock_path.parent.rmdir()
    assert not held.holds()
    # A second one gets in: that's why the first has to look.
    assert is_free(lock_path)
    held.close()


def test_a_waiter_on_a_replaced_file_waits_for_the_new_one(spawn, lock_path):
    first = held_by(spawn, lock_path)
    waiter = waiting_for(spawn, lock_path)
    lock_path.unlink()
    second = held_by(spawn, lock_path)
    first.kill()
    first.wait()
    wait_for(lambda: blocked_in_flock(waiter.pid))
    assert holders(lock_path) == [second.pid] and waiter.silent()
    second.kill()
    assert waiter.hear()
    assert holders(lock_path) == [waiter.pid]


def test_a_symbolic_link_is_not_followed(lock_path, tmp_path):
    lock_path.parent.mkdir(parents=True)
    lock_path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(LockError, match=r"cannot lock .*main.work.1.lock"):
        NameLock(lock_path).acquire()
    assert not (tmp_path / "elsewhere").exists()


def test_closing_the_file_elsewhere_keeps_it(spawn, lock_path):
    """POSIX locks (lockf) would be lost."""

    def read_it(child, held):
        lock_path.read_bytes()
        os.close(os.open(lock_path, os.O_RDWR))

    held_by(spawn, lock_path, read_it)
    assert not is_free(lock_path)


def test_it_is_the_kind_of_lock_that_flock_1_sees(spawn, lock_path):
    """OFD and POSIX locks don't see flock: one kind everywhere, the one that shells have, too."""
    held_by(spawn, lock_path)
    assert subprocess.run(["flock", "-n", lock_path, "true"]).returncode == 1


def test_waiters_are_served_in_order(spawn, lock_path):
    holder = held_by(spawn, lock_path)
    waiters = [waiting_for(spawn, lock_path) for _ in range(4)]
    for waiter in waiters:
        holder.kill()
        holder.wait()
        assert waiter.hear() == {"got": waiter.pid}
        holder = waiter


def test_a_waiter_that_is_not_wanted_any_more_is_ended(spawn, lock_path):
    """A third one queues behind it: only the end of its process takes it out of the queue."""
    holder, second, third = (
        held_by(spawn, lock_path),
        waiting_for(spawn, lock_path),
        waiting_for(spawn, lock_path),
    )
    second.kill()
    second.wait()
    holder.kill()
    assert third.hear() == {"got": third.pid}


def test_closing_does_not_wake_a_waiter(spawn, lock_path):
    """So nothing here tries to: the descriptor stays, the process ends."""
    holder = held_by(spawn, lock_path)
    fd = os.open(lock_path, os.O_RDWR)
    pid = os.getpid()
    waiter = threading.Thread(target=lambda: fcntl.flock(fd, fcntl.LOCK_EX), daemon=True)
    waiter.start()
    wait_for(lambda: blocked_in_flock(pid))
    os.close(fd)
    assert blocked_in_flock(pid) and waiter.is_alive()
    holder.kill()
    waiter.join(LIMIT)
    assert not waiter.is_alive()
    assert is_free(lock_path)


def test_holders_are_those_who_have_it_open(spawn, lock_path):
    """/proc/locks names who took it: dead, while a program that got a copy holds on."""

    def give_away(child, held):
        fd = held.share()
        program = subprocess.Popen(["sleep", "120"], pass_fds=[fd])
        os.close(fd)
        return program.pid

    holder = held_by(spawn, lock_path, give_away)
    try:
        assert set(holders(lock_path)) == {holder.pid, holder.extra}
        holder.kill()
        holder.wait()
        assert holders(lock_path) == [holder.extra]
        assert not is_free(lock_path)
    finally:
        os.kill(holder.extra, signal.SIGKILL)
    wait_for(lambda: is_free(lock_path))


def test_forks_at_any_moment(spawn, lock_path):
    """No fork comes between the opening of the file and its entry in the list of what a child has to close."""

    def body(child):
        done = threading.Event()

        def open_and_close():
            while not done.is_set():
                one = NameLock(lock_path)
                assert one.acquire()
                one.close()

        thread = threading.Thread(target=open_and_close)
        thread.start()
        leaks = 0
        for _ in range(100):
            pid = os.fork()
            if pid == 0:
                targets = [
                    str(Path(f"/proc/self/fd/{fd}").readlink()) for fd in os.listdir("/proc/self/fd") if _open(fd)
                ]
                os._exit(int(str(lock_path) in targets))
            leaks += os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        done.set()
        thread.join()
        child.say(leaks=leaks)

    assert spawn(body).hear() == {"leaks": 0}


def _open(fd: str) -> bool:
    return os.path.lexists(f"/proc/self/fd/{fd}")


# --- file systems -----------------------------------------------------------------------------------------------


def test_types_are_read_from_the_kernel():
    assert filesystem.filesystem_type(Path("/proc")) == 0x9FA0
    assert filesystem.unsafe_filesystem(Path("/proc")) is None


@pytest.mark.parametrize("magic", sorted(filesystem.UNSAFE))
def test_network_file_systems_are_refused(lock_path, monkeypatch, magic):
    monkeypatch.setattr(filesystem, "filesystem_type", lambda path: magic)
    with pytest.raises(LockError, match=f"it lies on {filesystem.UNSAFE[magic]}.*local file system"):
        NameLock(lock_path).acquire()
    forced = NameLock(lock_path, any_filesystem=True)
    assert forced.acquire()
    forced.close()


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(LockError, match="cannot lock"):
        NameLock(tmp_path / "file/name.lock").acquire()


def test_a_lock_without_descriptor(lock_path):
    # Other tests of this process may have left theirs open.
    before = set(lock._open)
    with pytest.raises(LockError, match="isn't held"):
        NameLock(lock_path).fd  # noqa: B018
    assert not NameLock(lock_path).holds()
    assert set(lock._open) <= before
