"""A handler process: standby, armed, active, asked to leave. Events come through pipes, as from a zygote."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
import time

import pytest
from handler_tools import process_of, wait_for
from test_lock import blocked_in_flock

import instar
from instar.handlers import current, epoch
from instar.handlers import process as process_module
from instar.handlers.epoch import REBOOT_JUMP, Record
from instar.handlers.errors import Fenced, HandlerError, NotActiveError, NotAHandlerError
from instar.handlers.states import HandlerState

STANDBY = {"event": "standby"}


def active(number: int) -> dict[str, object]:
    return {"event": "active", "epoch": number}


@pytest.fixture
def handler(spawn, lock_path):
    """Start a handler process that becomes active when it may, says so, and leaves when it has to."""

    def start(then=lambda child, handler: None, **changes):
        def body(child):
            handler = current.install(process_of(child, lock_path, **changes))
            took = handler.wait_active()
            if not took:
                child.say(left=True)
                return 0
            then(child, handler)
            handler.releasing.wait()
            child.say(releasing=True, active=handler.active)
            child.await_order()
            return 0

        return spawn(body)

    return start


def read_epoch(path):
    fd = os.open(path, os.O_RDONLY)
    try:
        return epoch.read(fd)
    finally:
        os.close(fd)


def test_outside_a_handler():
    with pytest.raises(NotAHandlerError, match=r"cannot tell the current handler: .*fake_handler"):
        instar.current_handler()


def test_a_standby_waits_until_it_is_armed(handler, lock_path):
    child = handler()
    assert child.hear() == STANDBY
    assert child.silent() and not lock_path.exists(), "not even the file is touched before"
    child.arm()
    assert child.hear("epoch") == active(1)
    assert read_epoch(lock_path) == (1, epoch.boot_id())
    child.release()
    assert child.hear("releasing") == {"releasing": True, "active": True}
    child.tell()
    assert child.wait() == 0


def test_the_end_of_the_pipe_arms_as_well(handler):
    child = handler()
    assert child.hear() == STANDBY
    os.close(child.arm_write)
    assert child.hear("epoch") == active(1)


def test_identity(handler):
    def tell(child, handler):
        me = instar.current_handler()
        child.say(me=[me.name, me.pool, me.index, me.tags, me.generation, me.epoch, me.active, me.holds()])

    child = handler(tell)
    child.hear()
    child.arm()
    assert child.hear("epoch") == active(1)
    assert child.hear("me") == {"me": ["main.work.1", "work", 1, ["fast"], 3, 1, True, True]}


@pytest.mark.parametrize("end", ["release", "kill", "stop and kill"])
def test_the_successor_takes_over_when_the_holder_has_ended(handler, end):
    old, new = handler(), handler()
    for child in (old, new):
        assert child.hear() == STANDBY
    old.arm()
    assert old.hear("epoch") == active(1)
    new.arm()
    wait_for(lambda: blocked_in_flock(new.pid))
    if end == "release":
        old.release()
        assert old.hear("releasing") == {"releasing": True, "active": True}
        assert new.silent(), "releasing is not the end: a thread of the old one may still write"
        old.tell()
    else:
        if end == "stop and kill":
            old.stop()
            assert new.silent()
        old.kill()
    assert new.hear("epoch") == active(2)


def test_many_takeovers_grow(handler, lock_path):
    seen, holder = [], None
    for _ in range(20):
        child = handler()
        assert child.hear() == STANDBY
        child.arm()
        if holder:
            holder.kill()
            holder.wait()
        seen.append(child.hear()["epoch"])
        holder = child
    assert seen == list(range(1, 21))


def test_a_reboot_jumps(handler, lock_path):
    lock_path.parent.mkdir(parents=True)
    fd = os.open(lock_path, os.O_RDWR | os.O_CREAT)
    epoch.write(fd, Record(41, "another-boot"))
    os.close(fd)
    child = handler()
    child.hear()
    child.arm()
    assert child.hear("epoch") == active(41 + REBOOT_JUMP)


def test_a_standby_that_is_asked_to_leave_never_takes_the_name(handler, lock_path):
    unarmed = handler()
    assert unarmed.hear() == STANDBY
    unarmed.release()
    assert unarmed.hear("left") == {"left": True}
    assert unarmed.wait() == 0
    assert not lock_path.exists()


def test_a_zygote_that_dies_before_arming_lets_its_standbys_leave(handler, lock_path):
    """Both pipes end at the same time."""
    child = handler()
    assert child.hear() == STANDBY
    child.stop()
    os.close(child.arm_write)
    os.close(child.release_write)
    child.kill(signal.SIGCONT)
    assert child.hear("left") == {"left": True}
    assert not lock_path.exists()


def test_a_waiter_that_is_asked_to_leave_passes_the_lock_on(spawn, lock_path, handler):
    """It may still be alive when its turn comes: it takes the lock then, but not the name."""
    old = handler()
    old.hear()
    old.arm()
    assert old.hear("epoch") == active(1)

    def stubborn(child):
        handler = current.install(process_of(child, lock_path))
        assert not handler.wait_active()
        child.say(left=True, active=handler.active)
        child.await_order()

    cancelled = spawn(stubborn)
    assert cancelled.hear() == STANDBY
    cancelled.arm()
    wait_for(lambda: blocked_in_flock(cancelled.pid))
    new = handler()
    assert new.hear() == STANDBY
    new.arm()
    wait_for(lambda: blocked_in_flock(new.pid))
    cancelled.release()
    assert cancelled.hear("left") == {"left": True, "active": False}
    old.kill()
    assert new.hear("epoch") == active(2), "the one that was cancelled has used up no epoch"


def test_waiting_with_a_limit_and_from_many_threads(spawn, lock_path):
    def body(child):
        handler = current.install(process_of(child, lock_path))
        child.say(first=handler.wait_active(0), again=handler.wait_active(0.01))
        results = []
        threads = [threading.Thread(target=lambda: results.append(handler.wait_active())) for _ in range(5)]
        for thread in threads:
            thread.start()
        child.say(threads=True)
        for thread in threads:
            thread.join()
        child.say(results=results)
        child.await_order()

    child = spawn(body)
    assert child.hear() == STANDBY, "said once"
    assert child.hear("first") == {"first": False, "again": False}
    assert child.hear("threads") == {"threads": True}
    child.arm()
    said = [child.hear(), child.hear()]
    assert active(1) in said and {"results": [True] * 5} in said


def test_signals_do_not_disturb_the_wait(spawn, lock_path, handler):
    old = handler()
    old.hear()
    old.arm()
    old.hear()

    def body(child):
        signal.signal(signal.SIGUSR1, lambda *_: child.say(signal=True))
        assert current.install(process_of(child, lock_path)).wait_active()
        child.await_order()

    child = spawn(body)
    child.hear()
    child.arm()
    wait_for(lambda: blocked_in_flock(child.pid))
    for _ in range(3):
        child.kill(signal.SIGUSR1)
        assert child.hear("signal") == {"signal": True}
    old.kill()
    assert child.hear("epoch") == active(2)


def test_asyncio(spawn, lock_path):
    def body(child):
        handler = current.install(process_of(child, lock_path))

        async def main():
            ticks = 0

            async def tick():
                nonlocal ticks
                while True:
                    ticks += 1
                    await asyncio.sleep(0)

            ticker = asyncio.create_task(tick())
            child.say(limited=await handler.wait_active_async(0.01))
            took = await handler.wait_active_async()
            child.say(took=took, ticked=ticks > 1)
            child.say(limited=await handler.releasing.wait_async(0.01))
            child.say(ready=True)
            left = await handler.releasing.wait_async()
            child.say(left=left, again=await handler.releasing.wait_async())
            ticker.cancel()
            child.await_order()

        asyncio.run(main())

    child = spawn(body)
    assert child.hear() == STANDBY
    assert child.hear("limited") == {"limited": False}
    child.arm()
    said = [child.hear(), child.hear()]
    assert active(1) in said and {"took": True, "ticked": True} in said
    assert child.hear("limited") == {"limited": False}
    assert child.hear("ready") == {"ready": True}
    child.release()
    assert child.hear("left") == {"left": True, "again": True}


def test_callbacks(handler):
    def register(child, handler):
        def fails():
            raise RuntimeError("mine")

        handler.on_release(fails)
        handler.on_release(lambda: child.say(callback=1))

    def late(child, handler):
        register(child, handler)
        handler.releasing.wait()
        handler.on_release(lambda: child.say(callback=2))

    child = handler(late)
    child.hear()
    child.arm()
    assert child.hear("epoch") == active(1)
    child.release()
    said = [child.hear() for _ in range(3)]
    assert {"callback": 1} in said and {"callback": 2} in said and {"releasing": True, "active": True} in said


def test_a_zygote_that_dies_releases_its_handlers(handler):
    child = handler()
    child.hear()
    child.arm()
    child.hear()
    os.close(child.release_write)
    assert child.hear("releasing") == {"releasing": True, "active": True}


def test_nobody_listens(spawn, lock_path):
    """The zygote is gone when the handler reports: that must not stop it."""

    def body(child):
        def tell(message):
            raise BrokenPipeError

        handler = current.install(process_of(child, lock_path, tell=tell))
        child.say(took=handler.wait_active())

    child = spawn(body)
    child.arm()
    assert child.hear("took") == {"took": True}


def test_it_cannot_have_the_name(spawn, tmp_path):
    (tmp_path / "file").write_text("")

    def body(child):
        handler = current.install(process_of(child, tmp_path / "file/name.lock"))
        for _ in range(2):
            with pytest.raises(HandlerError, match="cannot lock"):
                handler.wait_active()
        child.say(active=handler.active)

    child = spawn(body)
    assert child.hear() == STANDBY
    child.arm()
    failed = child.hear()
    assert failed["event"] == "failed" and "cannot lock" in failed["error"]
    assert child.hear("active") == {"active": False}


def test_the_lock_file_is_replaced(handler, lock_path, monkeypatch):
    monkeypatch.setattr(process_module, "LOOK", 0.01)
    child = handler(lambda child, handler: child.say(working=True))
    child.hear()
    child.arm()
    assert child.hear("epoch") == active(1)
    assert child.hear("working")
    lock_path.unlink()
    said = [child.hear(), child.hear()]
    assert {"releasing": True, "active": False} in said
    assert any(message.get("event") == "lost" and "replaced" in message["error"] for message in said)
    # The first has lost its name and lives; the name is not its own any more.
    other = handler()
    other.hear()
    other.arm()
    assert other.hear("epoch") == active(1), "the store corrects it at the first fence"


def test_a_forked_child_is_not_the_handler(handler):
    def fork(child, handler):
        pid = os.fork()
        if pid == 0:
            found = []
            for call in (handler.wait_active, lambda: handler.fence(None)):
                try:
                    call()
                except (NotActiveError, Fenced) as error:
                    found.append(type(error).__name__)
            child.say(child=[handler.name, handler.active, handler.holds(), handler._process.state, *found])
            os._exit(0)
        os.waitpid(pid, 0)
        child.say(parent=[handler.active, bool(handler.releasing)])

    child = handler(fork)
    child.hear()
    child.arm()
    assert child.hear("epoch") == active(1)
    assert child.hear("child") == {"child": ["main.work.1", False, False, "gone", "NotActiveError", "Fenced"]}
    assert child.hear("parent") == {"parent": [True, False]}


def test_nothing_is_known_before(spawn, lock_path):
    def body(child):
        handler = current.install(process_of(child, lock_path))
        for call in (lambda: handler.epoch, lambda: handler.fence(None)):
            with pytest.raises(NotActiveError, match=r"main\.work\.1.*wait_active"):
                call()
        child.say(ok=handler._process.state is HandlerState.STANDBY and not handler.active)

    assert spawn(body).hear() == {"ok": True}


def test_the_takeover_touches_no_database(handler, lock_path):
    """The epoch is a single small write without fsync, and a new file is made durable only after the takeover."""
    order = []

    def trace(child, handler):
        child.say(order=order)

    def tell_and_trace(child):
        def tell(message):
            order.append(message["event"])
            child.say(**message)

        return tell

    real_write, real_sync = os.pwrite, os.fsync
    os.pwrite = lambda *args: (order.append("write"), real_write(*args))[1]
    os.fsync = lambda fd: order.append("sync")
    try:
        child = handler(lambda child, handler: (wait_for(lambda: len(order) >= 3), trace(child, handler)))
    finally:
        os.pwrite, os.fsync = real_write, real_sync
    child.hear()
    child.arm()
    assert child.hear("epoch") == active(1)
    assert child.hear("order")["order"][:3] == ["write", "sync", "sync"]


def test_the_waiting_thread_leaves_the_interpreter_to_others(spawn, lock_path, handler):
    """A standby is idle while it waits: its own main thread can work, and it does not spin."""
    old = handler()
    old.hear()
    old.arm()
    old.hear()

    def body(child):
        handler = current.install(process_of(child, lock_path))
        handler.wait_active(0)
        child.say(waiting=True)
        child.await_order()
        before = time.process_time()
        child.say(idle=True)
        child.await_order()
        child.say(cpu=time.process_time() - before < 1.0, took=handler.wait_active())
        child.await_order()

    child = spawn(body)
    assert child.hear() == STANDBY
    assert child.hear("waiting") == {"waiting": True}
    child.arm()
    wait_for(lambda: blocked_in_flock(child.pid))
    child.tell()
    assert child.hear("idle") == {"idle": True}
    child.tell()
    old.kill()
    said = [child.hear(), child.hear()]
    assert active(2) in said and {"cpu": True, "took": True} in said


@pytest.mark.parametrize("thread_left", [False, True])
def test_the_name_is_handed_on_just_before_the_exit(spawn, lock_path, handler, thread_left):
    """Only if nobody is left in the process who could still write."""

    def body(child):
        process = process_of(child, lock_path)
        handler = current.install(process)
        handler.wait_active()
        if thread_left:
            threading.Thread(target=time.sleep, args=(120,), daemon=True).start()
        handler.releasing.wait()
        child.say(handed_on=process.hand_on(), active=handler.active)
        child.await_order()
        # Never returns from here in a real handler.
        with pytest.raises(Fenced):
            process.lease.require()
        child.say(refused=True)

    old = spawn(body)
    old.hear()
    old.arm()
    assert old.hear("epoch") == active(1)
    new = handler()
    new.hear()
    new.arm()
    wait_for(lambda: blocked_in_flock(new.pid))
    old.release()
    assert old.hear("handed_on") == {"handed_on": not thread_left, "active": thread_left}
    if thread_left:
        assert new.silent()
        old.kill()
    assert new.hear("epoch") == active(2)
    if not thread_left:
        old.tell()
        assert old.hear("refused")
