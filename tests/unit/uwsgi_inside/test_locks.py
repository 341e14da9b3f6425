"""Locks that threads and processes share."""

from __future__ import annotations

import os
import signal
import threading
import time

import pytest
from inside_tools import Child

from instar.uwsgi.inside import locks as module
from instar.uwsgi.inside.leaving import Leaving
from instar.uwsgi.inside.locks import LeavingError, Locks


@pytest.fixture
def locks(tmp_path):
    return Locks(tmp_path / "locks", 2)


def test_numbers(locks):
    for call in (locks.lock, locks.unlock, locks.is_locked):
        for wrong in (-1, 2):
            with pytest.raises(ValueError, match="Invalid lock number"):
                call(wrong)
        with pytest.raises(TypeError, match="cannot be interpreted as an integer"):
            call("0")


def test_a_lock_is_seen_by_its_holder_and_is_not_another_one(locks):
    locks.lock(0)
    assert [locks.is_locked(0), locks.is_locked(1)] == [True, False]
    locks.unlock(0)
    locks.unlock(0)
    assert not locks.is_locked(0)


def test_processes_exclude_each_other(locks, tmp_path):
    counter = tmp_path / "counter"
    counter.write_text("0")

    def count():
        for _ in range(200):
            locks.lock(1)
            counter.write_text(str(int(counter.read_text()) + 1))
            locks.unlock(1)

    children = [Child(count) for _ in range(3)]
    for child in children:
        child.result()
    assert counter.read_text() == "600"


def test_threads_exclude_each_other(locks):
    inside, most = 0, 0

    def enter():
        nonlocal inside, most
        for _ in range(50):
            locks.lock(0)
            inside += 1
            most = max(most, inside)
            time.sleep(0)
            inside -= 1
            locks.unlock(0)

    threads = [threading.Thread(target=enter) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == 1


def test_a_child_is_somebody_else_and_its_end_frees_what_it_held(locks):
    locks.lock(0)
    child = Child(lambda: (locks.is_locked(0), locks.lock(1)))
    assert child.result() == "(True, None)"
    assert locks.is_locked(0)
    assert not locks.is_locked(1)


def test_a_child_that_lives_on_does_not_keep_its_parent_s_lock(locks):
    read, write = os.pipe()
    grandchild_lives, end = os.pipe()

    def hold():
        locks.lock(0)
        if os.fork() == 0:
            os.write(write, b"x")
            os.read(grandchild_lives, 1)
            os._exit(0)
        os.read(read, 1)
        os.kill(os.getpid(), signal.SIGKILL)

    child = Child(hold)
    os.waitpid(child.pid, 0)
    assert not locks.is_locked(0)
    os.write(end, b"x")


def test_a_waiting_lock_that_is_interrupted_is_not_taken(locks, tmp_path):
    other = Locks(tmp_path / "locks", 2)
    other.lock(0)

    def interrupt(*_):
        raise InterruptedError

    before = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, 0.05)
    try:
        with pytest.raises(InterruptedError):
            locks.lock(0)
    finally:
        signal.signal(signal.SIGALRM, before)
    other.unlock(0)
    locks.lock(0)
    assert other.is_locked(0)


@pytest.fixture
def in_a_mule(tmp_path):
    """Locks whose waits can be given up."""
    found = Locks(tmp_path / "locks", 2)
    found.leaving = Leaving()
    return found


def test_a_mule_waits_for_a_lock_as_well(locks, in_a_mule):
    locks.lock(0)
    timer = threading.Timer(0.1, locks.unlock, (0,))
    timer.start()
    in_a_mule.lock(0)
    timer.join()
    assert in_a_mule.is_locked(0)
    in_a_mule.unlock(0)
    assert not locks.is_locked(0)


def test_a_mule_that_has_to_leave_gives_up_and_takes_nothing(locks, in_a_mule, monkeypatch):
    monkeypatch.setattr(module, "PATIENCE", 0.1)
    locks.lock(0)
    threading.Timer(0.1, in_a_mule.leaving.set).start()
    with pytest.raises(LeavingError, match="cannot wait for lock 0 of uwsgi: this mule has to leave"):
        in_a_mule.lock(0)
    with pytest.raises(LeavingError):
        in_a_mule.lock(0)
    # A free one it still gets.
    in_a_mule.lock(1)
    locks.unlock(0)
    end = time.monotonic() + 5
    while not locks._try(0):
        # The threads that waited had it for a moment, and gave it back.
        assert time.monotonic() < end


def test_a_lock_that_comes_soon_is_waited_for(locks, in_a_mule):
    locks.lock(0)
    in_a_mule.leaving.set()
    threading.Timer(0.1, locks.unlock, (0,)).start()
    in_a_mule.lock(0)
    assert in_a_mule.is_locked(0)


def test_a_mule_whose_wait_is_interrupted_takes_nothing(locks, in_a_mule):
    def interrupt(*_):
        raise InterruptedError

    locks.lock(0)
    before = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, 0.05)
    try:
        with pytest.raises(InterruptedError):
            in_a_mule.lock(0)
    finally:
        signal.signal(signal.SIGALRM, before)
    locks.unlock(0)
    end = time.monotonic() + 5
    while not locks._try(0):
        assert time.monotonic() < end


def test_threads_of_mules_exclude_each_other(tmp_path):
    mules = [Locks(tmp_path / "locks", 1) for _ in range(2)]
    inside, most = 0, 0

    def enter(lock):
        nonlocal inside, most
        for _ in range(40):
            lock.lock(0)
            inside += 1
            most = max(most, inside)
            time.sleep(0)
            inside -= 1
            lock.unlock(0)

    for each in mules:
        each.leaving = Leaving()
    threads = [threading.Thread(target=enter, args=(mules[index % 2],)) for index in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == 1
