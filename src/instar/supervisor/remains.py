"""Finds what a supervisor that died has left in its state directory, and connects to it."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import signal
import socket
import time
from pathlib import Path

from instar.errors import InstarError
from instar.runtime import channel
from instar.supervisor.contact import Contact, ContactError, living, meet
from instar.supervisor.interrupted import Decision, Stage, Story, decide, read_story
from instar.supervisor.journal import check_format, read
from instar.supervisor.launch import control_path
from instar.supervisor.record import Record, Records
from instar.supervisor.statedir import StateDir
from instar.system import System, unix_address

#: A zygote that was still booting may be importing the application, and hear nobody (seconds).
_BOOTING_PATIENCE = 0.5
#: A zygote that was started a moment ago has to get as far as its socket (seconds).
_NEWBORN_PATIENCE = 5.0


@dataclasses.dataclass
class Remains:
    """All that lives. Owner of the connections and pidfds."""

    story: Story
    decision: Decision
    #: By number.
    records: dict[int, Record]
    contacts: dict[int, Contact]
    #: Pidfds of zygotes that are to be killed: they were booting, and hear nobody; or they said what can't be true.
    deaf: list[int]
    #: Pidfds of the processes of zygotes that are dead, or to be killed.
    orphans: list[int]
    #: What could not be believed, for people.
    refused: list[str] = dataclasses.field(default_factory=list)

    def kill(self) -> None:
        """End the deaf ones at once."""
        for pidfd in self.deaf:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(pidfd, signal.SIGKILL)

    def close(self) -> None:
        """Let go of all; they live on."""
        for contact in self.contacts.values():
            contact.close()
        for pidfd in (*self.deaf, *self.orphans):
            os.close(pidfd)
        self.contacts.clear()
        self.deaf.clear()
        self.orphans.clear()


def find_remains(state: StateDir, system: System) -> Remains | None:
    """What is left, if the last supervisor did not end in order. The caller holds the lock. Raises InstarError."""
    entries = read(state.journal)
    story, records = read_story(entries), Records(state.control)
    if not story.stopped:
        check_format(entries)
    remains = Remains(story, Decision(None), {}, {}, [], [])
    try:
        for number in records.numbers():
            _look(number, remains, records, state, system)
    except BaseException:
        remains.close()
        raise
    remains.decision = decide(story, remains.contacts)
    if story.stopped and not (remains.contacts or remains.deaf or remains.orphans):
        return None
    return remains


def _look(number: int, remains: Remains, records: Records, state: StateDir, system: System) -> None:
    try:
        record = records.read(number)
    except InstarError as error:
        if not _somebody_listens(control_path(state, number)):
            return
        raise InstarError(f"cannot adopt generation {number}, which still serves: {error}") from error
    if record is None:
        return
    remains.records[number] = record
    path = control_path(state, number)
    if not record.pid:
        remains.deaf += _newborn(path, record, system)
        return
    booting = any(item.new == number and item.stage in (Stage.BOOT, Stage.GIVE_UP) for item in remains.story.operations)
    try:
        contact = meet(record, path, system, *([_BOOTING_PATIENCE] if booting else []))
    except ContactError as error:
        if error.silent and not booting:
            raise
        if not error.silent:
            remains.refused.append(str(error))
        pidfd = living(record, system)
        remains.deaf += [pidfd] if pidfd >= 0 else []
        contact = None
    if contact:
        remains.contacts[number] = contact
    else:
        remains.orphans += [pidfd for _, pidfd in records.processes(number).living(system)]


def _newborn(path: Path, record: Record, system: System) -> list[int]:
    """A zygote whose supervisor died before it could note its pid: whoever listens at its path."""
    end = time.monotonic() + _NEWBORN_PATIENCE
    uid = record.plan.credentials.uid
    while time.monotonic() < end:
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as sock:
            sock.settimeout(_BOOTING_PATIENCE)
            try:
                with unix_address(path) as address:
                    sock.connect(address)
            except OSError:
                # Nobody has the socket: there is no such process.
                return []
            pid, peer_uid, _ = channel.Channel(sock).peer()
        with contextlib.suppress(OSError):
            pidfd = system.pidfd_open(pid)
            command = Path(f"/proc/{pid}/cmdline").read_bytes()
            if peer_uid == (os.getuid() if uid is None else uid) and b"bootstrap.py" in command:
                return [pidfd]
            os.close(pidfd)
        # Until it gets that far, the socket is the dead supervisor's.
        time.sleep(0.05)
    raise InstarError(
        f"cannot adopt what is left: a process that can't be told listens at {path}; find it with `ss -xlp`, end it, "
        "and start again"
    )


def _somebody_listens(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as sock:
        sock.settimeout(_BOOTING_PATIENCE)
        try:
            with unix_address(path) as address:
                sock.connect(address)
        except OSError:
            return False
    return True
