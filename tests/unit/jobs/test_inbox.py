"""The manager's inbox: nothing is slept through, and nobody is woken twice for one look."""

from __future__ import annotations

import select
import threading

from instar.jobs.inbox import Inbox

LIMIT = 60.0


def rings(inbox: Inbox) -> bool:
    return bool(select.select([inbox._event], [], [], 0)[0])


def test_what_came_before_and_after_a_look_is_found() -> None:
    inbox = Inbox()
    inbox.put(1)
    inbox.put(2)
    inbox.wait(LIMIT)
    inbox.put(3)
    assert inbox.take() == [1, 2, 3]
    inbox.put(4)
    inbox.wait(LIMIT)
    assert inbox.take() == [4]
    inbox.close()


def test_gathering_ends_with_the_last_thing() -> None:
    inbox = Inbox()
    threads = [threading.Thread(target=inbox.put, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    inbox.gather(3, LIMIT)
    assert sorted(inbox.take()) == [0, 1, 2]
    inbox.close()


def test_gathering_ends_with_the_time_or_at_once_when_the_handler_has_to_leave() -> None:
    inbox = Inbox()
    inbox.put(1)
    inbox.gather(2, 0.01)
    assert inbox.take() == [1]
    inbox.put(None)
    inbox.gather(5, LIMIT)
    assert inbox.take() == [None]
    inbox.close()


def test_one_wake_up_is_enough_until_the_reader_has_looked() -> None:
    inbox = Inbox()
    inbox.put(1)
    inbox.wait(LIMIT)
    assert not rings(inbox)
    inbox.put(2)
    assert rings(inbox)
    inbox.gather(1, LIMIT)
    inbox.take()
    inbox.put(3)
    assert rings(inbox)
    inbox.close()
