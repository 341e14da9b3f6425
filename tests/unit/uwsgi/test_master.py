"""Orders: every letter and function, what the host is asked for, and that one never waits for another."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from instar.errors import BusyError, ConfigError, InstarError
from instar.supervisor.changes import Changes
from instar.supervisor.handover import Options
from instar.uwsgi import letters
from instar.uwsgi.emperor.link import News
from instar.uwsgi.letters import Order
from instar.uwsgi.master import Master, SupervisedHost
from instar.uwsgi.model import Touch
from instar.uwsgi.touches import Touches
from instar.uwsgi.vassal import EmperorLink


class Host:
    def __init__(self) -> None:
        self.asked: list[str] = []

    def stop(self, *, now: bool) -> None:
        self.asked.append(f"stop now={now}")

    def reload(self, options: Options) -> None:
        self.asked.append(f"reload now={options.now} {'+'.join(options.parts.listed())}")

    def recycle(self) -> None:
        self.asked.append("recycle")

    def toggle_accepting(self) -> None:
        raise BusyError("cannot pause: not now")

    def report(self) -> dict[str, Any]:
        return {"app": "x"}

    def reopen_log(self, *, rotate: bool) -> None:
        self.asked.append(f"log rotate={rotate}")


@pytest.mark.parametrize(
    ("letter", "asked"),
    [
        ("q", ["stop now=False"]),
        ("Q", ["stop now=True"]),
        ("r", ["reload now=False web+handlers"]),
        ("R", ["reload now=True web+handlers"]),
        ("c", ["reload now=False web"]),
        ("w", ["recycle"]),
        ("W", ["recycle"]),
        ("l", ["log rotate=False"]),
        ("L", ["log rotate=True"]),
        ("P", ["pidfiles"]),
        ("B", ["sos"]),
        ("x", []),
        ("\xe9", []),
    ],
)
def test_letters(letter: str, asked: list[str]) -> None:
    host, log = Host(), []
    master = Master(host, log.append, pidfiles=lambda: host.asked.append("pidfiles"))
    master.sos = lambda: host.asked.append("sos")
    master.letter(letter)
    assert host.asked == asked


@pytest.mark.parametrize("letter", "+-CEfS")
def test_letters_without_counterpart_say_so(letter: str) -> None:
    host, log = Host(), []
    Master(host, log.append, pidfiles=lambda: None).letter(letter)
    assert not host.asked and "does nothing: " in log[0]


def test_a_refusal_goes_to_the_log_and_stats_too() -> None:
    log: list[str] = []
    master = Master(Host(), log.append, pidfiles=lambda: None)
    master.letter("p")
    assert log[-1] == "cannot pause: not now"
    master.letter("s")
    assert log[-1] == '{"app": "x"}'


def test_every_letter_of_uwsgi_is_known() -> None:
    """core/fifo.c, besides the digits."""
    assert all(letters.order_of(letter) for letter in "-+BcCEflLpPqQrRsSwW")
    with pytest.raises(ConfigError, match="did you mean grace_them_all"):
        letters.function("grace_them_al")


# --- reloads ----------------------------------------------------------------------------------------


class Operations:
    """Refuses while a handover is under way."""

    def __init__(self) -> None:
        self.handover: Any = None
        self.begun: list[Options] = []
        self.refusal: InstarError | None = None
        self.changes = Changes()

    def restart(self, options: Options) -> None:
        if self.refusal:
            raise self.refusal
        if self.handover:
            raise BusyError("cannot restart: one is running")
        over = asyncio.Event()
        self.handover = SimpleNamespace(report=SimpleNamespace(wait=over.wait), over=over)
        self.begun.append(options)

    def finish(self) -> None:
        over, self.handover = self.handover.over, None
        over.set()


@pytest.fixture
def supervisor() -> Any:
    lines: list[str] = []
    return SimpleNamespace(
        operations=Operations(), stopping=False, log=SimpleNamespace(write=lines.append), lines=lines
    )


async def _settle() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


async def test_a_reload_during_a_handover_follows_it_once(supervisor: Any) -> None:
    host = SupervisedHost(supervisor)
    host.reload(Options())
    await _settle()
    for _ in range(3):
        host.reload(Options())
    await _settle()
    assert len(supervisor.operations.begun) == 1
    supervisor.operations.finish()
    await _settle()
    assert len(supervisor.operations.begun) == 2, "three requests for what is on disk now are one"
    supervisor.operations.finish()
    await _settle()
    assert len(supervisor.operations.begun) == 2
    host.reload(Options())
    await _settle()
    assert len(supervisor.operations.begun) == 3, "it never gets stuck"
    await host.close()


async def test_a_configuration_that_is_wrong_is_said_and_forgotten(supervisor: Any) -> None:
    host = SupervisedHost(supervisor)
    supervisor.operations.refusal = ConfigError("cannot read x.yml: line 3")
    host.reload(Options())
    await _settle()
    assert supervisor.lines == ["cannot read x.yml: line 3"]
    supervisor.operations.refusal = None
    host.reload(Options())
    await _settle()
    assert len(supervisor.operations.begun) == 1
    await host.close()


async def test_no_reload_while_stopping(supervisor: Any) -> None:
    supervisor.stopping = True
    with pytest.raises(BusyError):
        SupervisedHost(supervisor).reload(Options())


# --- touched files ----------------------------------------------------------------------------------


def test_touches(tmp_path: Path) -> None:
    here, later = tmp_path / "here", tmp_path / "later"
    here.touch()
    touches = Touches([Touch(here, "r"), Touch(later, "c"), Touch(here, "exec:true")], lambda _: None)
    assert touches.look() == []
    later.touch()
    assert touches.look() == ["c"], "one that appears counts as touched"
    later.unlink()
    assert touches.look() == []
    import os

    os.utime(here, (1, 1))
    assert touches.look() == ["r", "exec:true"]
    assert touches.look() == []


# --- the Emperor ------------------------------------------------------------------------------------


async def test_the_emperors_bytes() -> None:
    emperor, ours = socket.socketpair()
    environ = {"UWSGI_EMPEROR_FD": str(ours.detach()), "UWSGI_EMPEROR_FD_CONFIG": "9", "HOME": "/"}
    link = EmperorLink.from_environment(environ)
    assert environ == {"HOME": "/"}, "no child may speak for us"
    orders: list[Order] = []
    link.listen(orders.append)
    emperor.send(bytes([1, 77, 2, 0]))
    async with asyncio.timeout(5):
        while len(orders) < 3:
            await asyncio.sleep(0.002)
    assert orders == [Order.RELOAD, Order.STOP, Order.STOP_NOW]
    link.say(News.SPAWNED)
    link.say(News.ACCEPTING)
    link.say(News.ACCEPTING)
    assert emperor.recv(16) == bytes([1, 5])
    emperor.close()
    await asyncio.sleep(0.02)
    link.say(News.LOYAL)
    assert len(orders) == 3, "an Emperor that dies stops nobody"
    link.close()


@pytest.mark.parametrize("value", ["", "no", "99999"])
def test_without_an_emperor_nothing_is_said(value: str) -> None:
    link = EmperorLink.from_environment({"UWSGI_EMPEROR_FD": value})
    link.say(News.ACCEPTING)
    link.close()
