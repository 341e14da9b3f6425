"""Copies of the listening sockets with the service manager (sd_notify(3), FDSTORE=1): the second way to get them back.

The first is adoption: a generation that lives has its sockets. If everything died at once, nobody else has them, and
whoever connects would be refused until the next start; so the service manager holds copies, and new connections wait.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
import select
import socket
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final, NamedTuple

from instar.listeners.base import Listener, Mode, Slot
from instar.listeners.systemd import Inherited
from instar.supervisor.contact import cookie_of
from instar.system.notify import Notifier

#: Of all names that releases of instar store sockets under.
_PREFIX: Final = "instar-"
_SLOTS: Final[tuple[Slot, Slot]] = ("a", "b")
#: What it is for, which address (a digest: addresses have colons), slot (s: shared by both) and row.
_NAME: Final = re.compile(r"instar-web-([0-9a-f]{20})-([abs])(\d{1,4})")


class Found(NamedTuple):
    """The sockets of one address. Whoever takes them owns them."""

    mode: Mode
    slots: Mapping[Slot, Sequence[socket.socket]]

    def all(self) -> list[socket.socket]:
        """Every socket once."""
        return list(dict.fromkeys(sock for sockets in self.slots.values() for sock in sockets))


class StoredSockets:
    """Owner of what the service manager gave back until it is taken, and of the list of what it holds."""

    def __init__(self, notifier: Notifier | None, inherited: Sequence[Inherited] = ()) -> None:
        self.notifier = notifier
        self.log: Callable[[str], object] = lambda text: None
        #: Those that a socket unit has opened.
        self.activated = [item for item in inherited if not item.name.startswith(_PREFIX)]
        self._activated = {cookie_of(item.socket) for item in self.activated}
        self._found = {item.name: item.socket for item in inherited if item.name.startswith(_PREFIX)}
        #: Cookie of each socket that is held, by its name there.
        self._held = {name: cookie_of(sock) for name, sock in self._found.items()}

    def waiting_slot(self) -> Slot:
        """The slot in whose sockets more clients wait: the one that the dead generation had."""
        waiting = {"a": 0, "b": 0, "s": 0}
        for name, sock in self._found.items():
            if match := _NAME.fullmatch(name):
                waiting[match[2]] += _somebody_waits(sock)
        return "b" if waiting["b"] > waiting["a"] else "a"

    def take(self, bind: str) -> Found | None:
        """The sockets that are held for an address, if they are complete."""
        digest = _digest(bind)
        rows: dict[str, dict[int, socket.socket]] = {"a": {}, "b": {}, "s": {}}
        for name in list(self._found):
            match = _NAME.fullmatch(name)
            if match and match[1] == digest:
                rows[match[2]][int(match[3])] = self._found.pop(name)
        slots: dict[Slot, list[socket.socket]] = {
            slot: [rows[slot][row] for row in sorted(rows[slot])] for slot in _SLOTS
        }
        if len(slots["a"]) == len(slots["b"]) > 0 and not rows["s"] and sorted(rows["a"]) == sorted(rows["b"]):
            return Found(Mode.STEERED, slots)
        if list(rows["s"]) == [0] and not rows["a"] and not rows["b"]:
            return Found(Mode.SHARED, {slot: [rows["s"][0]] for slot in _SLOTS})
        self.give_up(bind, [sock for group in rows.values() for sock in group.values()])
        return None

    def give_up(self, bind: str, sockets: Iterable[socket.socket]) -> None:
        """Close sockets that can't be used, and have their copies closed: their address is free then."""
        digest = _digest(bind)
        sockets = list(sockets)
        for sock in sockets:
            sock.close()
        if sockets:
            self._forget(name for name in self._held if (match := _NAME.fullmatch(name)) and match[1] == digest)

    def sync(self, listeners: Mapping[str, Listener]) -> None:
        """Have exactly the sockets held that are in use; called when one generation serves."""
        if self.notifier is None:
            return
        wanted = {name: sock for bind, item in listeners.items() for name, sock in self._of(bind, item).items()}
        if any(name not in wanted for name in self._found):
            self.log("a listening socket of an earlier configuration, which the service manager kept, is closed")
        for sock in self._found.values():
            # Adopted ones have come over the zygote as well.
            sock.close()
        self._found.clear()
        cookies = {name: cookie_of(sock) for name, sock in wanted.items()}
        self._forget(name for name, cookie in self._held.items() if cookies.get(name) != cookie)
        for name, sock in wanted.items():
            if name not in self._held:
                if not self.notifier.store(name, [sock.fileno()]):
                    self.log("the service manager did not take a copy of a listening socket")
                    return
                self._held[name] = cookies[name]

    def _of(self, bind: str, listener: Listener) -> dict[str, socket.socket]:
        digest = _digest(bind)
        # A port that the kernel chose is another one at the next start.
        if bind.endswith(":0"):
            return {}
        if listener.mode is Mode.STEERED:
            return {
                f"{_PREFIX}web-{digest}-{slot}{row}": sock
                for slot in _SLOTS
                for row, sock in enumerate(listener.sockets(slot))
            }
        if listener.mode is Mode.SHARED:
            [sock] = listener.all_sockets()
            # The service manager has it already.
            return {} if cookie_of(sock) in self._activated else {f"{_PREFIX}web-{digest}-s0": sock}
        # A UNIX socket is its generation's own: the next one has another.
        return {}

    def _forget(self, names: Iterable[str]) -> None:
        names = list(names)
        for name in names:
            del self._held[name]
            if self.notifier is not None:
                self.notifier.forget(name)
        if names and self.notifier is not None and not self.notifier.barrier():
            self.log("the service manager does not say that it has closed a socket")


def refuse_waiting(sockets: Iterable[socket.socket]) -> None:
    """Reset the connections that wait where nobody is going to accept. The sockets no longer listen then."""
    for sock in sockets:
        if _somebody_waits(sock):
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)


def _somebody_waits(sock: socket.socket) -> bool:
    poll = select.poll()
    poll.register(sock, select.POLLIN)
    return bool(poll.poll(0))


def _digest(bind: str) -> str:
    return hashlib.sha256(bind.encode()).hexdigest()[:20]
