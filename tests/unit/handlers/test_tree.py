"""Whole trees end: daemons, processes that hop from fork to fork, and fork bombs."""

from __future__ import annotations

import os
import signal
import time

import pytest
from handler_tools import LIMIT, Child, alive, wait_for

from instar.handlers.tree import ProcessGroup, children, descendants, kill_tree, own_group
from instar.system import System

#: A tree that isn't killed ends by itself after so many seconds.
LIFE = 60.0


def daemons(child: Child) -> None:
    for _ in range(4):
        if os.fork() == 0:
            os.setsid()
            if os.fork() == 0:
                child.say(pid=os.getpid())
                time.sleep(LIFE)
            os._exit(0)
        os.wait()


def hopper(child: Child) -> None:
    end = time.monotonic() + LIFE
    while time.monotonic() < end:
        if os.fork():
            os._exit(0)
        os.setsid()
        time.sleep(0.001)


def hot(child: Child) -> None:
    end = time.monotonic() + LIFE
    while time.monotonic() < end:
        if os.fork():
            os._exit(0)


@pytest.mark.parametrize("shape", [daemons, hopper, hot])
def test_a_subreaper_kills_all_below_it(spawn, shape):
    def keeper(child):
        System().become_subreaper()
        if os.fork() == 0:
            shape(child)
            time.sleep(LIFE)
        child.say(ready=True)
        child.await_order()
        gone = kill_tree(os.getpid(), patience=LIMIT)
        child.say(gone=gone, left=len(descendants(os.getpid())))

    child = spawn(keeper)
    pids = []
    heard = [child.hear()] + ([child.hear() for _ in range(4)] if shape is daemons else [])
    pids = [message["pid"] for message in heard if "pid" in message]
    child.tell()
    assert child.hear() == {"gone": True, "left": 0}
    assert not any(alive(pid) for pid in pids)


@pytest.mark.parametrize("subreaper", ["the child", "the killer"])
def test_a_child_is_killed_with_its_daemons_and_others_are_spared(spawn, subreaper):
    def killer(child):
        System().become_subreaper()
        other = os.fork()
        if other == 0:
            time.sleep(LIFE)
        root = os.fork()
        if root == 0:
            if subreaper == "the child":
                System().become_subreaper()
                daemons(child)
            elif os.fork() == 0:
                # Still below the child when the killing begins; falls to the killer only then.
                if os.fork() == 0:
                    os.setsid()
                    child.say(pid=os.getpid())
                    time.sleep(LIFE)
                time.sleep(LIFE)
            time.sleep(LIFE)
        child.await_order()
        child.say(gone=kill_tree(root, patience=LIMIT), status=os.waitstatus_to_exitcode(os.waitpid(root, 0)[1]))
        child.say(left=children(os.getpid()) == [other])
        os.kill(other, signal.SIGKILL)
        os.waitpid(other, 0)

    child = spawn(killer)
    pids = [child.hear()["pid"] for _ in range(4 if subreaper == "the child" else 1)]
    child.tell()
    assert child.hear() == {"gone": True, "status": -signal.SIGKILL}
    assert child.hear() == {"left": True}
    assert not any(alive(pid) for pid in pids)


def test_a_stopped_process_is_killed_without_being_continued(spawn):
    child = spawn(lambda child: time.sleep(LIFE))
    child.stop()
    assert kill_tree(child.pid)
    assert child.wait() == -signal.SIGKILL


def test_a_process_that_is_gone(spawn):
    child = spawn(lambda child: 0)
    child.wait()
    assert kill_tree(child.pid)
    assert children(child.pid) == []


@pytest.fixture
def group():
    made = ProcessGroup.create(f"instar-test-{os.getpid()}")
    if made is None:
        pytest.skip(f"no writable cgroup v2 (own group: {own_group()})")
    yield made
    if made.populated():
        made.kill_and_wait(LIMIT)
    assert made.remove()


@pytest.mark.parametrize("shape", [daemons, hopper, hot])
def test_a_group_ends_as_a_whole(spawn, group, shape):
    def member(child):
        group.enter()
        shape(child)
        child.say(ready=True)
        time.sleep(LIFE)

    child = spawn(member)
    wait_for(group.populated)
    if shape is daemons:
        while "ready" not in child.hear():
            pass
        assert len(group.pids()) == 5
    assert not group.remove()
    assert group.kill_and_wait(LIMIT)
    assert group.pids() == []


def test_no_group_can_be_made(tmp_path):
    assert ProcessGroup.create("x", tmp_path / "none") is None
    assert ProcessGroup.create("x", tmp_path) is None, "an ordinary folder is no cgroup"
    assert not (tmp_path / "x").exists()
    assert not ProcessGroup(tmp_path).populated()
    assert ProcessGroup(tmp_path).pids() == []
