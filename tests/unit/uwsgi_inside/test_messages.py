"""Messages to mules and farms, and who gets them."""

from __future__ import annotations

import os
import signal
import threading
import time

import pytest
from inside_tools import Child, mule

from instar.handlers import messages


@pytest.fixture
def farm(inside):
    """Two mules; both are in farm `both`, the second also in `one`."""
    return inside(
        mules=[
            mule(1, "main.both.1", farms=["both"]),
            mule(2, "main.both.2", farms=["both", "one"]),
            mule(3, "main.mule.3"),
        ]
    )


def received(farm, name, count, **how):
    """What a mule gets, in a process of its own."""

    def body():
        farm.become(name)
        return [farm.module.mule_get_msg(timeout=0, **how) for _ in range(count)]

    return Child(body).result()


def test_addresses_and_their_order(farm):
    uwsgi = farm.module
    assert uwsgi.mule_msg("any") is True
    assert uwsgi.mule_msg(b"any too", 0) is True
    assert uwsgi.mule_msg("for two", 2) is True
    assert uwsgi.mule_msg("for both", b"both") is True
    assert uwsgi.farm_msg("one", "for one") is None
    assert received(farm, "main.both.2", 6) == str([b"for two", b"any", b"any too", b"for both", b"for one", b""])


def test_a_mule_gets_no_message_of_another(farm):
    farm.module.mule_msg("for two", 2)
    farm.module.farm_msg("one", "for one")
    assert received(farm, "main.both.1", 1) == str([b""])
    assert received(farm, "main.mule.3", 1) == str([b""])


def test_farms_may_be_left_out(farm):
    farm.module.farm_msg("both", "x")
    assert received(farm, "main.both.1", 1, farms=False) == str([b""])
    assert received(farm, "main.both.1", 1) == str([b"x"])


def test_a_long_message_is_cut_to_the_buffer(farm):
    farm.module.mule_msg("0123456789", 1)
    assert received(farm, "main.both.1", 2, buffer_size=4) == str([b"0123", b""])


def test_who_may_not_receive(farm):
    for call, kind in ((farm.module.mule_get_msg, "mule"), (farm.module.farm_get_msg, "farm")):
        with pytest.raises(ValueError, match=f"you can receive {kind} messages only in a mule !!!"):
            call()


@pytest.mark.parametrize(
    ("to", "text"),
    [("both", "invalid mule"), (None, "invalid mule"), (b"nosuch", "unknown farm"), (4, "invalid mule number"),
     (-1, "invalid mule number")],
)  # fmt: skip
def test_wrong_addresses(farm, to, text):
    with pytest.raises(ValueError, match=text):
        farm.module.mule_msg("x", to)


def test_no_mules(inside):
    with pytest.raises(ValueError, match="no mule configured"):
        inside().module.mule_msg("x")
    assert inside().module.farm_msg("nosuch", "x") is None


def test_only_text_and_bytes(farm):
    with pytest.raises(TypeError, match=r"mule_msg\(\) argument 1 must be read-only bytes-like object, not int"):
        farm.module.mule_msg(1)
    with pytest.raises(TypeError, match=r"farm_msg\(\) argument 2"):
        farm.module.farm_msg("both", bytearray(b"x"))


def test_a_full_queue_is_told(farm, capsys):
    sent = 0
    while farm.module.mule_msg(b"x" * 1000, 1):
        sent += 1
    assert sent > 10
    assert "its queue is full" in capsys.readouterr().err
    assert farm.module.mule_msg(b"x", 2) is True


def test_a_message_that_is_too_long_is_told(farm, capsys):
    assert farm.module.mule_msg(b"x" * (messages.MAX_MESSAGE + 1), 1) is False
    assert "the limit is" in capsys.readouterr().err


def test_a_wait_ends_with_the_message(farm):
    def body():
        farm.become("main.both.1")
        return farm.module.farm_get_msg()

    child = Child(body)
    farm.module.farm_msg("both", "late")
    assert child.result() == str(b"late")


def test_a_timeout_is_kept(farm):
    def body():
        farm.become("main.both.1")
        began = time.monotonic()
        return farm.module.mule_get_msg(timeout=1), 0.99 < time.monotonic() - began < 5

    assert Child(body).result() == str((b"", True))


def test_leaving_is_told_once_and_leaves_the_messages_to_the_successor(farm):
    def body():
        farm.become("main.both.1")
        threading.Timer(0.1, farm.extension.mail.leave).start()
        interrupted = farm.module.mule_get_msg()
        farm.module.mule_msg("to a colleague", 2)
        farm.module.mule_msg("to anyone")
        return interrupted, farm.module.mule_get_msg(timeout=0), farm.module.mule_get_msg(timeout=1)

    farm.module.mule_msg("before", 2)
    assert Child(body).result() == str((b"", b"", b""))
    assert received(farm, "main.both.2", 4) == str([b"before", b"to a colleague", b"to anyone", b""])


def test_what_a_leaving_mule_sends_to_itself_wakes_its_own_thread_and_no_other_mule(farm):
    """Galaxy's mules: on SIGHUP they send the farm a message that means the end, and join the thread that waits."""

    def body():
        farm.become("main.both.1")
        got = []

        def dispatch():
            got.extend([farm.module.farm_get_msg(), farm.module.mule_get_msg(farms=False)])

        thread = threading.Thread(target=dispatch)
        thread.start()
        farm.extension.mail.leave()
        farm.module.farm_msg("both", "__SHUTDOWN__")
        farm.module.mule_msg("own", 1)
        thread.join(10)
        return got

    assert Child(body).result() == str([b"__SHUTDOWN__", b"own"])
    assert received(farm, "main.both.2", 1) == str([b""])
    assert received(farm, "main.both.1", 1) == str([b""])


def test_what_it_does_not_read_is_told(farm, capfd):
    def body():
        farm.become("main.both.1")
        farm.extension.mail.leave()
        farm.module.farm_msg("both", "x")
        farm.extension.at_exit()

    Child(body).result()
    assert "1 messages that main.both.1 sent to itself while it had to leave are dropped" in capfd.readouterr().err


@pytest.mark.parametrize(("name", "result"), [("mule_get_msg", b""), ("farm_get_msg", None)])
def test_a_signal_interrupts_the_wait_and_an_event_loop_still_hears_of_it(farm, name, result):
    def body():
        farm.become("main.both.1")
        signal.signal(signal.SIGALRM, lambda *_: None)
        read, write = os.pipe2(os.O_NONBLOCK)
        signal.set_wakeup_fd(write)
        signal.setitimer(signal.ITIMER_REAL, 0.1)
        got = getattr(farm.module, name)()
        return got, os.read(read, 9) == bytes([signal.SIGALRM])

    assert Child(body).result() == str((result, True))


def test_a_signal_does_not_interrupt_another_thread(farm):
    def body():
        farm.become("main.both.1")
        signal.signal(signal.SIGALRM, lambda *_: None)
        got = []
        thread = threading.Thread(target=lambda: got.append(farm.module.mule_get_msg(timeout=1)))
        thread.start()
        signal.setitimer(signal.ITIMER_REAL, 0.1)
        thread.join()
        return got

    assert Child(body).result() == str([b""])
