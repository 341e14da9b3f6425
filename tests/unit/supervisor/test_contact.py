"""A zygote in somebody else's hands: what it says to a supervisor that adopts it is checked before it is believed.

This process plays the zygote: it is the recorded process, with the recorded scoreboard and sockets, and tells lies.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from instar import PROTOCOL
from instar.config.loading import checked
from instar.runtime import channel
from instar.runtime.channel import Channel, Message
from instar.runtime.scoreboard import Scoreboard
from instar.supervisor import contact as contact_module
from instar.supervisor.contact import Contact, ContactError, cookie_of, meet
from instar.supervisor.generation import Generation
from instar.supervisor.plan import Credentials, Parts, Plan
from instar.supervisor.record import ListenerRecord, Record, boot_id
from instar.supervisor.remains import find_remains
from instar.supervisor.statedir import StateDir
from instar.supervisor.transitions import GenerationState
from instar.system import System

#: A message, and the descriptors that ride along.
Said = tuple[Message, tuple[int, ...]]
ME = os.getpid()


class Zygote:
    """Owner of the socket, the scoreboard and what was said."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "g1.sock"
        self.board = Scoreboard.create(4)
        self.listening = socket.create_server(("127.0.0.1", 0))
        self.pidfd = os.pidfd_open(ME)
        self.record = Record(
            1,
            "a",
            Parts(),
            _plan(folder),
            "nonce",
            os.fstat(self.board.fd).st_ino,
            4,
            (ListenerRecord("127.0.0.1:0", "shared", {"a": [cookie_of(self.listening)], "b": []}),),
            ME,
            System().start_time(ME),
            boot_id(),
        )
        self.said: list[Said | bytes] = [self.hello(), self.sockets(self.listening), (channel.Whole(True), ())]
        self.patience = 5.0
        self._server = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._server.bind(str(self.path))
        self._server.listen()
        self._thread = threading.Thread(target=self._serve, daemon=True)

    def hello(self, **more: int) -> Said:
        """The introduction."""
        given = {"protocol": PROTOCOL, "generation": 1, "pid": ME, **more}
        return channel.Hello(**given), (self.pidfd, self.board.fd)

    def sockets(self, *sockets: socket.socket) -> Said:
        """Listening sockets."""
        return channel.Sockets("127.0.0.1:0", len(sockets)), tuple(sock.fileno() for sock in sockets)

    def meet(self) -> Contact | None:
        """What the supervisor makes of it."""
        self._thread.start()
        return meet(self.record, self.path, System(), self.patience)

    def _serve(self) -> None:
        try:
            sock, _ = self._server.accept()
        except OSError:
            # Nobody came.
            return
        speaker = Channel(sock)
        with contextlib.suppress(OSError):
            for item in self.said:
                if isinstance(item, bytes):
                    sock.send(item)
                else:
                    speaker.send(*item)
            while sock.recv(1 << 16):
                pass
        speaker.close()

    def close(self) -> None:
        """Free everything."""
        # Before the close: a descriptor's number may be somebody else's by the time of the accept.
        self._server.shutdown(socket.SHUT_RDWR)
        if self._thread.ident:
            self._thread.join(10.0)
        self._server.close()
        self.listening.close()
        self.board.close()
        os.close(self.pidfd)


def _plan(folder: Path, **more: Any) -> Plan:
    raw = {"app": {"target": "x:app"}, "web": {"workers": 2}, **more}
    return Plan.of(checked(raw, base=folder, name="the test"))


@pytest.fixture
def zygote(tmp_path: Path) -> Iterator[Zygote]:
    """An honest one."""
    before = _descriptors()
    found = Zygote(tmp_path)
    yield found
    found.close()
    # Whatever was said: nothing that came with it is kept.
    assert _descriptors() == before


@pytest.fixture
def other() -> Iterator[int]:
    """Another process of the same user."""
    yield from _sleeper()


@pytest.fixture
def foreign() -> Iterator[int]:
    """A process of another user."""
    if os.geteuid():
        pytest.skip("only root can start a process of another user: run the tests as root")
    yield from _sleeper(user=65534)


def _sleeper(**more: Any) -> Iterator[int]:
    process = subprocess.Popen(["sleep", "60"], **more)
    yield process.pid
    process.kill()
    process.wait()


def _descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def test_an_honest_zygote_is_believed(zygote: Zygote) -> None:
    contact = zygote.meet()
    assert contact is not None and contact.committed and list(contact.sockets) == [cookie_of(zygote.listening)]
    contact.close()


def _refused(zygote: Zygote, why: str, *, silent: bool = False) -> None:
    with pytest.raises(ContactError, match=why) as caught:
        zygote.meet()
    assert caught.value.silent is silent


def test_another_process_listens_at_its_path(zygote: Zygote, other: int) -> None:
    zygote.record = _with(zygote.record, pid=other, start_time=System().start_time(other))
    _refused(zygote, f"process {ME} listens in its place")


def test_it_runs_as_somebody_else(zygote: Zygote) -> None:
    plan = zygote.record.plan
    zygote.record = _with(zygote.record, plan=_with(plan, credentials=Credentials(12345, 12345, ())))
    _refused(zygote, f"it runs as uid {os.getuid()}")


def test_its_pid_is_another_process_by_now(zygote: Zygote) -> None:
    """A pid that was used again has another start time: that zygote has ended."""
    zygote.record = _with(zygote.record, start_time=zygote.record.start_time + 1)
    assert meet(zygote.record, zygote.path, System()) is None


def test_nothing_outlives_a_reboot(zygote: Zygote) -> None:
    zygote.record = _with(zygote.record, boot_id="another")
    assert meet(zygote.record, zygote.path, System()) is None


def _with(value: Any, **changes: Any) -> Any:
    import dataclasses

    return dataclasses.replace(value, **changes)


LIES: dict[str, tuple[Callable[[Zygote], Sequence[Said | bytes]], str]] = {
    "another generation": (lambda z: [z.hello(generation=2)], "says that it is generation 2"),
    "another pid": (lambda z: [z.hello(pid=1)], "says that it is generation 1 with pid 1"),
    "a newer protocol": (lambda z: [z.hello(protocol=PROTOCOL + 1)], "speaks protocol"),
    "no descriptors": (lambda z: [(z.hello()[0], ())], "says that it is generation"),
    "twice": (lambda z: [z.hello(), z.hello()], "introduces itself twice"),
    "not at all": (lambda _: [(channel.Whole(True), ())], "didn't introduce itself"),
    "no pidfd": (lambda z: [(z.hello()[0], (z.board.fd, z.board.fd))], "stands for no process"),
    "a scoreboard that is a socket": (
        lambda z: [(z.hello()[0], (z.pidfd, z.listening.fileno()))],
        "its scoreboard is another one",
    ),
    "a queue that is a socket": (
        lambda z: [z.hello(), (channel.QueueEnds("x"), (z.listening.fileno(),) * 2)],
        "the queue x isn't one",
    ),
    "a socket that is a pidfd": (
        lambda z: [z.hello(), (channel.Sockets("x", 1), (z.pidfd,))],
        "a socket that it hands over isn't one",
    ),
    "no JSON": (lambda _: [b"\xff\x00 nonsense"], "can't be believed"),
    "no object": (lambda _: [b"[]"], "without a type"),
    "nested without end": (lambda _: [b"[" * 60_000], "nested too deeply|can't be believed"),
    "wrong types": (lambda _: [b'{"type": "forked", "worker": "x"}'], "wrong worker"),
    "half of it": (lambda _: [b'{"type": "forked", "worker": 0}'], "without its row"),
    "numbers without end": (lambda _: [b'{"type": "whole", "committed": 1}'], "wrong committed"),
}


@pytest.mark.parametrize("lie", LIES)
def test_lies(zygote: Zygote, lie: str) -> None:
    say, why = LIES[lie]
    zygote.said = list(say(zygote))
    _refused(zygote, why)


def test_a_scoreboard_that_can_be_cut_short(zygote: Zygote) -> None:
    """Without seals a read of it could end us (SIGBUS)."""
    fd = os.memfd_create("other", os.MFD_CLOEXEC)
    os.ftruncate(fd, 4096)
    zygote.record = _with(zygote.record, board=os.fstat(fd).st_ino)
    zygote.said = [(zygote.hello()[0], (zygote.pidfd, fd))]
    _refused(zygote, "its scoreboard is another one")
    os.close(fd)


def test_a_socket_of_somebody_else(zygote: Zygote) -> None:
    with socket.create_server(("127.0.0.1", 0)) as planted:
        zygote.said = [zygote.hello(), zygote.sockets(zygote.listening, planted)]
        _refused(zygote, "a socket that it hands over is none of ours")


def test_pidfd_of_another_process(zygote: Zygote, other: int) -> None:
    pidfd = os.pidfd_open(other)
    zygote.said = [(zygote.hello()[0], (pidfd, zygote.board.fd))]
    _refused(zygote, f"stands for process {other}")
    os.close(pidfd)


def test_a_flood(zygote: Zygote, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contact_module, "_MOST_MESSAGES", 500)
    zygote.said = [zygote.hello(), *[(channel.Note("x", "y"), ())] * 2000]
    _refused(zygote, "it talks without end")


def test_silence_is_not_a_lie(zygote: Zygote) -> None:
    zygote.said, zygote.patience = [zygote.hello()], 0.3
    _refused(zygote, "doesn't answer", silent=True)


# --- after it was adopted -------------------------------------------------------------------------------


class Adopted:
    """An adopted generation of the zygote, and what was noted about it."""

    def __init__(self, zygote: Zygote) -> None:
        self.notes: list[str] = []
        self.contact = zygote.meet()
        assert self.contact is not None
        for sock in self.contact.sockets.values():
            sock.close()
        record = zygote.record
        self.generation = Generation(
            1, "a", record.plan, record.parts, System(), lambda *said: self.notes.append(said[2]), adopted=self.contact
        )
        self.generation.take_over(self.contact, GenerationState.SERVING, 0.0)

    def close(self) -> None:
        """Free its descriptors; the process is ours."""
        generation = self.generation
        if generation._pidfd >= 0:
            asyncio.get_running_loop().remove_reader(generation._pidfd)
            os.close(generation._pidfd)
        for view in (*generation.workers.values(), *generation.handlers.values()):
            with contextlib.suppress(AttributeError):
                view.close()  # type: ignore[union-attr]
        for worker in generation.workers.values():
            os.close(worker.pidfd)
        generation.close()


def _forked(pid: int, pidfd: int, worker: int = 0) -> Said:
    return channel.Forked(worker, 0, pid, 1), (pidfd,)


def _handler(zygote: Zygote, name: str, *fds: int) -> Said:
    return channel.HandlerForked(name, ME, 1), (zygote.pidfd, *fds)


def _not_believed(zygote: Zygote, said: Said, why: str) -> None:
    zygote.said.insert(1, said)

    async def adopt() -> None:
        adopted = Adopted(zygote)
        assert not adopted.generation.workers and not adopted.generation.handlers
        assert any(why in note for note in adopted.notes), adopted.notes
        # It is not listened to any more.
        assert adopted.generation._channel is None
        adopted.close()

    asyncio.run(adopt())


def test_a_worker_of_another_pid(zygote: Zygote, other: int) -> None:
    """A signal for it would hit somebody else."""
    _not_believed(zygote, _forked(other, zygote.pidfd), f"stands for process {ME}")


def test_a_worker_of_another_user(zygote: Zygote, foreign: int) -> None:
    pidfd = os.pidfd_open(foreign)
    _not_believed(zygote, _forked(foreign, pidfd), "runs as uid 65534")
    os.close(pidfd)


@pytest.mark.parametrize("worker", [-1, 2, 1 << 40])
def test_a_worker_without_a_place(zygote: Zygote, worker: int) -> None:
    _not_believed(zygote, _forked(ME, zygote.pidfd, worker), "it has no place for worker")


def test_a_worker_without_a_descriptor(zygote: Zygote) -> None:
    _not_believed(zygote, (channel.Forked(0, 0, ME, 1), ()), "cannot believe")


def test_a_handler_that_nobody_configured(zygote: Zygote) -> None:
    _not_believed(zygote, _handler(zygote, "stranger"), "no place for a handler stranger")


def test_the_end_of_a_handler_that_nobody_configured(zygote: Zygote) -> None:
    said = channel.HandlerExited("stranger", 1, 0, ""), ()
    _not_believed(zygote, said, "it has no handler stranger")


def test_a_pipe_that_is_none(zygote: Zygote, tmp_path: Path) -> None:
    """A byte to command a handler with would go into a file of our own."""
    table = {"handlers": {"pool": {"target": "x:run"}}}
    zygote.record = _with(zygote.record, plan=_plan(tmp_path, **table))
    [name] = [item.name for item in zygote.record.plan.handler_specs()]
    fd = os.open(tmp_path / "file", os.O_WRONLY | os.O_CREAT)
    _not_believed(zygote, _handler(zygote, name, fd, fd), "is no pipe")
    os.close(fd)


def test_a_flood_leaves_time_for_others(zygote: Zygote) -> None:
    zygote.said += [(channel.Note("x", "y"), ())] * 20_000

    async def adopt() -> int:
        adopted, turns = Adopted(zygote), 0
        while len(adopted.notes) < 20_000:
            await asyncio.sleep(0)
            turns += 1
        adopted.close()
        return turns

    assert asyncio.run(asyncio.wait_for(adopt(), 20.0)) >= 400


def test_who_lies_is_ended_and_the_rest_is_adopted(zygote: Zygote, tmp_path: Path, other: int) -> None:
    """The processes that our own notes name go with it."""
    from instar.supervisor.record import Process, Records

    state = StateDir(tmp_path / "state")
    state.create(None, None)
    records = Records(state.control)
    records.write(zygote.record)
    records.processes(1).add(Process(other, System().start_time(other)))
    zygote.path.rename(state.app / "g1.sock")
    zygote.said = [zygote.hello(generation=2)]
    zygote._thread.start()
    remains = find_remains(state, System())
    assert remains is not None and not remains.contacts and remains.decision.live is None
    assert ["says that it is generation 2" in text for text in remains.refused] == [True]
    # Not ended yet: that comes after the decision.
    [deaf], [orphan] = remains.deaf, remains.orphans
    assert _pid_of(deaf) == ME and _pid_of(orphan) == other
    signal.pidfd_send_signal(orphan, 0)
    remains.close()


def _pid_of(pidfd: int) -> int:
    lines = Path(f"/proc/self/fdinfo/{pidfd}").read_text().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith("Pid:")))
