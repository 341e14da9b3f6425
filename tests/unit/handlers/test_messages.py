from __future__ import annotations

import asyncio
import contextlib
import mmap
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from instar.handlers import messages
from instar.handlers.messages import (
    MAX_MESSAGE,
    MessageTooBigError,
    QueueEnds,
    QueueError,
    QueueFullError,
    QueueSpec,
    UnknownQueueError,
    install_queues,
    receive,
    receive_async,
    send,
    stop_receiving,
)
from instar.supervisor.queues import Queues


@pytest.fixture(autouse=True)
def nothing_stays_installed() -> Iterator[None]:
    yield
    if messages._mailbox is not None:
        messages._mailbox.detach()
        messages._mailbox = None


@pytest.fixture
def queues() -> Iterator[Queues]:
    result = Queues()
    yield result
    result.close()


def ends(queues: Queues) -> dict[str, QueueEnds]:
    return {spec.name: spec.ends for spec in queues.specs()}


def be_handler(queues: Queues, pool: str = "mail", name: str = "main.mail.1") -> None:
    queues.ensure([pool, name])
    install_queues(ends(queues), pool, name)


def test_a_message_to_the_name_comes_before_one_to_the_pool(queues: Queues) -> None:
    be_handler(queues)
    send("mail", b"pool")
    send("main.mail.1", b"name")
    assert [receive(0), receive(0), receive(0)] == [b"name", b"pool", None]


def test_boundaries_and_order_are_kept_and_empty_messages_count(queues: Queues) -> None:
    be_handler(queues)
    sent = [b"", b"one", b"", b"x" * MAX_MESSAGE, b"\0"]
    for data in sent:
        send("mail", data)
    assert [receive(0) for _ in sent] == sent
    assert receive(0) is None


def test_a_pool_of_one_may_have_the_name_of_its_handler(queues: Queues) -> None:
    be_handler(queues, pool="mail", name="mail")
    send("mail", b"x")
    assert [receive(0), receive(0)] == [b"x", None]


def test_any_buffer_can_be_sent(queues: Queues) -> None:
    be_handler(queues)
    send("mail", memoryview(b"abc"))  # type: ignore[arg-type]
    assert receive(0) == b"abc"


def test_a_full_queue_is_an_error_at_once_and_loses_nothing(queues: Queues) -> None:
    be_handler(queues)
    taken = 0
    with pytest.raises(QueueFullError, match="cannot send to 'mail': its queue is full"):
        while True:
            send("mail", b"%d" % taken)
            taken += 1
    assert taken > 100
    # One queue does not fill the other.
    send("main.mail.1", b"still")
    assert receive(0) == b"still"
    assert [receive(0) for _ in range(taken)] == [b"%d" % number for number in range(taken)]
    assert receive(0) is None
    send("mail", b"again")


def test_a_full_queue_stays_an_error_where_a_default_timeout_is_set(queues: Queues) -> None:
    queues.ensure(["mail"])
    socket.setdefaulttimeout(30)
    try:
        install_queues(ends(queues), "mail", None)
    finally:
        socket.setdefaulttimeout(None)
    began = time.monotonic()
    with pytest.raises(QueueFullError):
        while True:
            send("mail", b"x" * 4096)
    with contextlib.suppress(QueueError):
        while receive(0) is not None:
            pass
    assert time.monotonic() - began < 15


def test_a_message_that_is_too_big_is_refused(queues: Queues) -> None:
    be_handler(queues)
    with pytest.raises(MessageTooBigError, match="cannot send 65537 bytes to 'mail': the limit is 65536"):
        send("mail", b"x" * (MAX_MESSAGE + 1))


def test_a_small_socket_buffer_is_named(queues: Queues) -> None:
    be_handler(queues)
    fd = ends(queues)["mail"].send
    with socket.socket(fileno=os.dup(fd)) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    with pytest.raises(MessageTooBigError, match=r"the limit is \d+; .*net\.core\.wmem_max"):
        send("mail", b"x" * MAX_MESSAGE)


@pytest.mark.parametrize(
    ("to", "words"),
    [("mial", "did you mean 'mail'"), ("q", "known are mail, main.mail.1"), ("", "known are")],
)
def test_an_unknown_name_is_an_error_with_a_hint(queues: Queues, to: str, words: str) -> None:
    be_handler(queues)
    with pytest.raises(UnknownQueueError, match=words):
        send(to, b"x")


def test_an_application_without_handlers_is_told_so() -> None:
    install_queues({})
    with pytest.raises(UnknownQueueError, match=r"add a table \[handlers\.POOL\]"):
        send("mail", b"x")


def test_outside_of_instar_the_error_says_so() -> None:
    with pytest.raises(UnknownQueueError, match="not run by instar"):
        send("mail", b"x")
    with pytest.raises(QueueError, match="not a handler"):
        receive(0)


def test_a_web_worker_sends_and_does_not_receive(queues: Queues) -> None:
    queues.ensure(["mail"])
    install_queues(ends(queues))
    send("mail", b"x")
    with pytest.raises(QueueError, match="only handlers have queues"):
        receive(0)


def test_receive_waits_for_its_timeout_and_not_much_longer(queues: Queues) -> None:
    be_handler(queues)
    began = time.monotonic()
    assert receive(0.05) is None
    assert time.monotonic() - began >= 0.05


def test_a_waiting_receiver_is_woken_by_a_message_and_by_a_release(queues: Queues) -> None:
    be_handler(queues)
    got: list[bytes | None] = []

    def work() -> None:
        while (message := receive()) is not None:
            got.append(message)
        got.append(None)

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for number in range(50):
        send("mail" if number % 2 else "main.mail.1", b"%d" % number)
    wait_until(lambda: len(got) == 50)
    stop_receiving()
    for thread in threads:
        thread.join(10)
        assert not thread.is_alive()
    assert sorted(int(item) for item in got if item is not None) == list(range(50))


def test_after_a_release_messages_are_left_to_the_successor(queues: Queues) -> None:
    be_handler(queues)
    send("mail", b"for the next one")
    stop_receiving()
    assert receive() is None
    assert asyncio.run(receive_async()) is None
    be_handler(queues)
    assert receive(0) == b"for the next one"


async def test_async_receivers_share_what_comes(queues: Queues) -> None:
    be_handler(queues)

    async def work() -> list[bytes]:
        got = []
        while (message := await receive_async()) is not None:
            got.append(message)
        return got

    tasks = [asyncio.create_task(work()) for _ in range(3)]
    for number in range(60):
        send("mail" if number % 2 else "main.mail.1", b"%d" % number)
        await asyncio.sleep(0)
    while queues.depths() and any(depth.bytes for depth in queues.depths()):
        await asyncio.sleep(0.005)
    stop_receiving()
    got = await asyncio.wait_for(asyncio.gather(*tasks), 10)
    assert sorted(int(item) for items in got for item in items) == list(range(60))


async def test_an_async_receiver_times_out(queues: Queues) -> None:
    be_handler(queues)
    before = len(os.listdir("/proc/self/fd"))
    assert await receive_async(0) is None
    assert await receive_async(0.02) is None
    assert len(os.listdir("/proc/self/fd")) == before


async def test_a_cancelled_async_receiver_has_taken_nothing(queues: Queues) -> None:
    be_handler(queues)
    task = asyncio.create_task(receive_async())
    await asyncio.sleep(0.01)
    send("mail", b"kept")
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert receive(0) == b"kept"


def test_programs_that_a_handler_starts_do_not_inherit_queues(queues: Queues) -> None:
    be_handler(queues)
    code = "import os; print(sum('socket' in os.readlink(f'/proc/self/fd/{fd}') for fd in os.listdir('/proc/self/fd')\
 if os.path.lexists(f'/proc/self/fd/{fd}')))"
    count = subprocess.run([sys.executable, "-c", code], close_fds=False, stdout=subprocess.PIPE, check=True).stdout
    bare = subprocess.run([sys.executable, "-c", code], close_fds=True, stdout=subprocess.PIPE, check=True).stdout
    assert count == bare


def test_only_the_standard_library_is_needed() -> None:
    code = (
        "import sys, instar.handlers.messages as m;"
        "print([n for n in sys.modules if n.split('.')[0] in ('pydantic', 'aiohttp')])"
    )
    assert subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, check=True).stdout == b"[]\n"


# --- the supervisor's side


def test_ensure_keeps_what_is_there(queues: Queues) -> None:
    queues.ensure(["a"])
    first = queues.specs()
    queues.ensure(["a", "b"])
    assert queues.specs()[: len(first)] == first
    assert [spec.name for spec in queues.specs()] == ["a", "b"]
    assert queues.fds() == [fd for spec in queues.specs() for fd in (spec.send_fd, spec.receive_fd)]


def test_depths_rise_with_each_message_up_to_the_limit_and_fall_to_nothing(queues: Queues) -> None:
    be_handler(queues)
    assert [depth.bytes for depth in queues.depths()] == [0, 0]
    send("mail", b"")
    [mail, other] = queues.depths()
    assert mail.bytes > 0
    assert other.bytes == 0
    with pytest.raises(QueueFullError):
        while True:
            send("mail", b"x")
    assert queues.depths()[0].bytes >= queues.depths()[0].limit
    while receive(0) is not None:
        pass
    assert queues.depths()[0].bytes == 0


def test_the_size_can_be_set() -> None:
    small, large = Queues(64 << 10), Queues(128 << 10)
    for queues in (small, large):
        queues.ensure(["a"])
    assert 0 < small.depths()[0].limit < large.depths()[0].limit
    small.close()
    large.close()


def test_dropped_queues_are_closed_and_those_with_messages_named(queues: Queues) -> None:
    be_handler(queues)
    send("mail", b"lost")
    install_copy = queues.specs()
    assert queues.drop(["mail", "main.mail.1", "never"]) == ["mail"]
    assert queues.specs() == ()
    for spec in install_copy:
        with pytest.raises(OSError):
            os.fstat(spec.send_fd)


def test_a_new_supervisor_adopts_what_a_zygote_kept(queues: Queues) -> None:
    be_handler(queues)
    send("mail", b"from before")
    kept = [QueueSpec(spec.name, os.dup(spec.send_fd), os.dup(spec.receive_fd)) for spec in queues.specs()]
    queues.close()
    successor = Queues()
    successor.adopt(kept)
    successor.ensure(["mail"])
    install_queues(ends(successor), "mail", None)
    assert receive(0) == b"from before"
    again = [QueueSpec("mail", *(sock.detach() for sock in socket.socketpair()))]
    successor.adopt(again)
    with pytest.raises(OSError):
        os.fstat(again[0].send_fd)
    successor.close()


# --- many processes


def wait_until(condition: Callable[[], bool], limit: float = 30.0) -> None:
    deadline = time.monotonic() + limit
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.005)


def fork(work: Callable[[], None]) -> int:
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            work()
            code = 0
        finally:
            os._exit(code)
    return pid


MESSAGES, SENDERS, RECEIVERS = 10_000, 4, 4


@pytest.mark.parametrize("kills", [0, 6])
def test_each_of_ten_thousand_messages_is_received_once_or_reported(kills: int) -> None:
    """Several senders, several receivers, of which some are killed and replaced while the messages flow."""
    queues = Queues(32 << 10)  # small, so that senders meet full ones
    names = [f"main.mail.{index}" for index in range(1, RECEIVERS + 1)]
    queues.ensure(["mail", *names])
    # Shared memory outlives a killed process, to the byte. For each message, whether it was received, and whether its
    # sender was told that it was not taken; for each receiver process, whether it may have one that it hasn't counted.
    received, refused, in_hand = (memoryview(mmap.mmap(-1, size)) for size in (MESSAGES, MESSAGES, 64))
    refusals = memoryview(mmap.mmap(-1, SENDERS))

    def sender(number: int) -> None:
        install_queues(ends(queues))
        for item in range(number, MESSAGES, SENDERS):
            to = names[item // 5 % RECEIVERS] if item % 5 == 0 else "mail"
            for _ in range(3):
                with contextlib.suppress(QueueFullError):
                    send(to, b"%d" % item)
                    break
                refusals[number] = 1
                time.sleep(0.002)
            else:
                refused[item] = 1

    def receiver(name: str, process: int) -> None:
        install_queues(ends(queues), "mail", name)
        last: dict[tuple[int, bool], int] = {}
        while True:
            in_hand[process] = 1
            message = receive(0.05)
            if message is not None:
                item = int(message)  # a spurious empty message would be a ValueError
                received[item] += 1
            in_hand[process] = 0
            if message is not None:
                key = item % SENDERS, item % 5 == 0  # one sender, one queue: in order
                assert last.get(key, -1) < item
                last[key] = item

    def settled() -> int:
        return sum(1 for got, told in zip(received, refused, strict=True) if got or told)

    receivers = {index: fork(lambda index=index: receiver(names[index], index)) for index in range(RECEIVERS)}
    senders = [fork(lambda number=number: sender(number)) for number in range(SENDERS)]
    uncounted = 0
    try:
        for kill in range(kills):
            wait_until(lambda kill=kill: settled() >= (kill + 1) * MESSAGES // (kills + 2))
            pid = receivers.pop(kill)
            os.kill(pid, signal.SIGKILL)
            assert os.waitpid(pid, 0)[1] == signal.SIGKILL, "it had failed before"
            uncounted += in_hand[kill]
            new, name = kill + RECEIVERS, names[kill % RECEIVERS]
            receivers[new] = fork(lambda name=name, new=new: receiver(name, new))
        while senders:
            assert os.waitpid(senders.pop(), 0)[1] == 0
        # A killed receiver takes along, at most, the one message that it had just been given.
        wait_until(lambda: settled() >= MESSAGES - uncounted and not any(depth.bytes for depth in queues.depths()))
        assert max(got + told for got, told in zip(received, refused, strict=True)) == 1
        for pid in receivers.values():
            assert os.waitpid(pid, os.WNOHANG) == (0, 0), "a receiver failed"
        assert sum(received) > MESSAGES // 4
        assert any(refusals), "no queue was ever full"
    finally:
        for pid in (*senders, *receivers.values()):
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        queues.close()


@pytest.mark.parametrize("holder", ["supervisor", "zygote"])
def test_what_is_queued_outlives_every_process_but_one(holder: str) -> None:
    """The creator, a sender and a receiver are killed; one idle process keeps the ends."""
    parent, child = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)

    def creator() -> None:
        queues = Queues()
        queues.ensure(["mail"])

        def sends() -> None:
            install_queues(ends(queues))
            for item in (b"first", b"", b"third"):
                send("mail", item)
            os.kill(os.getpid(), signal.SIGKILL)

        def reads() -> None:
            install_queues(ends(queues), "mail", None)
            receive(10)
            os.kill(os.getpid(), signal.SIGKILL)

        os.waitpid(fork(sends), 0)
        os.waitpid(fork(reads), 0)
        if holder == "zygote":  # the ends go to a process that never looks at them; then the creator is killed
            socket.send_fds(child, [b"ends"], queues.fds())
            os.kill(os.getpid(), signal.SIGKILL)
        socket.send_fds(child, [b"ends"], queues.fds())

    pid = fork(creator)
    _, fds, _, _ = socket.recv_fds(parent, 10, 2)
    os.waitpid(pid, 0)
    install_queues({"mail": QueueEnds(*fds)}, "mail", None)
    assert [receive(0), receive(0), receive(0.01)] == [b"", b"third", None]
    for fd in fds:
        os.close(fd)
    parent.close()
    child.close()
