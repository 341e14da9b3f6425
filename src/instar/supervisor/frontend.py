"""All listeners together: opened, added and removed by configuration, steered as one."""

from __future__ import annotations

import dataclasses
import select
import socket
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from instar.config import Address, Config, parse_address
from instar.config.address import Protocol
from instar.errors import ConfigError, InstarError
from instar.listeners import AddressLock, open_listener, restore_listener
from instar.listeners.base import Canary, Listener, Mode, Slot, Steering, other
from instar.listeners.systemd import is_bound_to
from instar.runtime.spec import ListenerSpec
from instar.supervisor.contact import cookie_of
from instar.supervisor.plan import Plan, socket_capacity, socket_owner, worker_count
from instar.supervisor.record import ListenerRecord
from instar.supervisor.stored import StoredSockets, refuse_waiting

_SLOTS: tuple[Slot, Slot] = ("a", "b")
#: The mode asked of a TCP listener by `[web] steering`; None: what the kernel can.
_MODES = {"auto": None, "steered": Mode.STEERED, "shared": Mode.SHARED}


@dataclasses.dataclass
class Frontend:
    """Owner of the listeners. What the kernel was last told is kept, so that equal steering costs nothing."""

    #: Folder of the address locks, the same for all supervisors of a user.
    lock_folder: Path
    #: Listening sockets from the service manager, for the binds that name their addresses.
    inherited: Sequence[socket.socket] = ()
    #: The inherited sockets belong to a zerg pool: other supervisors accept from them as well.
    pooled: bool = False
    #: Copies of the sockets with the service manager.
    stored: StoredSockets | None = None
    #: By bind, as in the configuration.
    listeners: dict[str, Listener] = dataclasses.field(default_factory=dict)
    live: Slot = "a"
    #: Worker numbers of the generation in each slot that take new connections.
    workers: dict[Slot, tuple[int, ...]] = dataclasses.field(default_factory=lambda: {"a": (), "b": ()})
    canary: Canary | None = None
    #: Workers that the generation in each slot was started with.
    planned: dict[Slot, int] = dataclasses.field(default_factory=lambda: {"a": 0, "b": 0})
    #: Protocols for which the generation in each slot accepts from one socket only.
    one_socket: dict[Slot, frozenset[Protocol]] = dataclasses.field(
        default_factory=lambda: {"a": frozenset(), "b": frozenset()}
    )
    #: Addresses that only the coming generation serves: their clients wait for it from the start.
    early: dict[str, Slot] = dataclasses.field(default_factory=dict)
    #: Addresses that only the old generation serves: they go on leading there until they are closed.
    dropped: set[str] = dataclasses.field(default_factory=set)
    _locks: dict[str, AddressLock] = dataclasses.field(default_factory=dict)
    _applied: dict[str, Steering] = dataclasses.field(default_factory=dict)

    def open(self, config: Config) -> tuple[list[str], list[str]]:
        """Open the addresses that are not open yet; returns these, and those that the configuration dropped.

        On an error nothing new stays open. Raises InstarError.
        """
        opened: list[str] = []
        if self.stored and not self.listeners:
            # What waits since everything died is for the first generation.
            self.live = self.stored.waiting_slot()
        try:
            for bind in config.web.bind:
                if bind not in self.listeners:
                    opened.append(bind)
                    self._open(bind, config)
        except BaseException:
            self.close(opened)
            raise
        return opened, [bind for bind in self.listeners if bind not in config.web.bind]

    def _open(self, bind: str, config: Config) -> None:
        address = parse_address(bind)
        pooled = self.pooled and any(is_bound_to(sock, bind) for sock in self.inherited)
        if not pooled and not bind.endswith(":0"):
            self._refuse_other_protocol(bind, address)
            self._locks[bind] = AddressLock(self.lock_folder, address.location)
        self.listeners[bind] = self._take_stored(bind, config) or open_listener(
            bind,
            rows=socket_capacity(config),
            backlog=config.web.backlog,
            mode=Mode.SHARED if pooled else None if address.kind == "unix" else _MODES[config.web.steering],
            inherited=self.inherited,
            unix_permissions=int(config.web.socket_mode, 8),
            unix_owner=socket_owner(config),
        )

    def _take_stored(self, bind: str, config: Config) -> Listener | None:
        """The listener whose sockets the service manager has kept. None: there is none, or it is of no use."""
        found = self.stored.take(bind) if self.stored else None
        if self.stored is None or found is None:
            return None
        served, sockets = worker_count(config), found.slots
        if _MODES[config.web.steering] in (None, found.mode):
            try:
                steering = Steering(self.live, {slot: self._rows_of(bind, sockets[slot], slot) for slot in _SLOTS})
                listener = restore_listener(bind, found.mode, sockets, steering=steering, backlog=config.web.backlog)
                if found.mode is Mode.STEERED:
                    # From now on nobody is led there.
                    refuse_waiting([*sockets[other(self.live)], *sockets[self.live][served:]])
                    listener.prepare(self.live, 0)
            except InstarError as error:
                self.stored.log(f"{error}; it is opened anew")
            else:
                self.stored.log(f"{bind}: the listening sockets that the service manager kept are served again")
                return listener
        self.stored.give_up(bind, found.all())
        return None

    def _refuse_other_protocol(self, bind: str, address: Address) -> None:
        for open_one in self.listeners:
            if parse_address(open_one).location == address.location:
                raise ConfigError(
                    f"cannot change {open_one} to {bind} by a restart: its clients would speak the wrong protocol "
                    "to one of the generations; use another address, or `instar stop` and `instar run`"
                )

    def keep(self) -> None:
        """Have the service manager hold copies of exactly the sockets that are open."""
        if self.stored:
            self.stored.sync(self.listeners)

    def close(self, binds: Iterable[str]) -> None:
        """Close addresses; what the service manager holds of them stays there, for the next start."""
        for bind in list(binds):
            self._applied.pop(bind, None)
            self.early.pop(bind, None)
            self.dropped.discard(bind)
            if bind in self.listeners:
                self.listeners.pop(bind).close()
            if bind in self._locks:
                self._locks.pop(bind).release()

    @property
    def gated(self) -> bool:
        """Whether some address is shared, so that workers have to wait for the cut-over before they accept."""
        return any(listener.mode is Mode.SHARED for listener in self.listeners.values())

    @property
    def all_steered(self) -> bool:
        """Whether the kernel picks the socket at every address."""
        return all(listener.mode is Mode.STEERED for listener in self.listeners.values())

    @property
    def can_share_out(self) -> bool:
        """Whether some address can send a part of its clients to a generation: a canary needs that."""
        return any(listener.mode is Mode.STEERED for listener in self.listeners.values())

    def prepare(self, slot: Slot, generation: int, plan: Plan) -> tuple[ListenerSpec, ...]:
        """Make a slot ready for a generation; returns what its zygote is told of the sockets."""
        self.planned[slot], self.one_socket[slot] = plan.workers, plan.one_socket
        specs = []
        for bind in plan.config.web.bind:
            listener = self.listeners[bind]
            listener.prepare(slot, generation)
            own = tuple(sock.fileno() for sock in self.used(listener, slot))
            held = tuple(sock.fileno() for sock in listener.all_sockets() if sock.fileno() not in own)
            address = parse_address(bind)
            specs.append(ListenerSpec(bind, address.kind, own, held, address.protocol))
            if bind not in self._applied:
                self.early[bind] = slot
        return tuple(specs)

    def recorded(self, plan: Plan) -> tuple[ListenerRecord, ...]:
        """The sockets that a generation gets, for whoever adopts it."""
        found = []
        for bind in plan.config.web.bind:
            listener = self.listeners[bind]
            cookies: dict[str, list[int]] = {}
            for slot in _SLOTS:
                cookies[slot] = [cookie_of(sock) for sock in listener.sockets(slot)]
            found.append(ListenerRecord(bind, str(listener.mode), cookies))
        return tuple(found)

    def restore(self, record: ListenerRecord, sockets: Mapping[int, socket.socket], plan: Plan) -> None:
        """Take over a listener of a supervisor that died. `live`, `workers`, `planned` and `one_socket` are set before.

        `sockets`: by cookie. Raises InstarError; nothing is closed then.
        """
        bind, config = record.bind, plan.config
        missing = [cookie for slot in record.cookies.values() for cookie in slot if cookie not in sockets]
        if missing and record.mode != Mode.RENAMED:
            raise InstarError(f"cannot adopt {bind}: {len(missing)} of its sockets are missing")
        if not bind.endswith(":0"):
            self._locks[bind] = AddressLock(self.lock_folder, parse_address(bind).location)
        slots = {
            slot: [sockets[cookie] for cookie in record.cookies.get(slot, ()) if cookie in sockets] for slot in _SLOTS
        }
        try:
            self.listeners[bind] = restore_listener(
                bind,
                Mode(record.mode),
                slots,
                steering=Steering(self.live, {slot: self._rows_of(bind, slots[slot], slot) for slot in _SLOTS}),
                backlog=config.web.backlog,
                unix_permissions=int(config.web.socket_mode, 8),
                unix_owner=socket_owner(config),
            )
        except BaseException:
            if bind in self._locks:
                self._locks.pop(bind).release()
            raise

    def owns(self, sock: socket.socket) -> bool:
        """Whether a socket belongs to one of the listeners."""
        return any(sock is mine for listener in self.listeners.values() for mine in listener.all_sockets())

    def forget(self, binds: Iterable[str]) -> None:
        """Undo `restore`: let go of listeners without closing a socket, and of their addresses."""
        for bind in binds:
            del self.listeners[bind]
            if bind in self._locks:
                self._locks.pop(bind).release()

    def used(self, listener: Listener, slot: Slot) -> tuple[socket.socket, ...]:
        """The sockets that the generation in this slot accepts from, in row order."""
        return self._used(listener.address, listener.sockets(slot), slot)

    def _used(self, address: str, sockets: Sequence[socket.socket], slot: Slot) -> tuple[socket.socket, ...]:
        return tuple(sockets[:1] if parse_address(address).protocol in self.one_socket[slot] else sockets)

    def release(self, slot: Slot) -> None:
        """The generation of this slot is gone."""
        self.workers[slot] = ()
        for _, listener in self._wanted():
            listener.release(slot)

    def _wanted(self) -> list[tuple[str, Listener]]:
        return [item for item in self.listeners.items() if item[0] not in self.dropped]

    def verify(self, slot: Slot, generation: int) -> None:
        """Make sure that each index of a group still leads to its own socket; repairs it. Raises ListenError."""
        for bind, listener in self._wanted():
            if bind in self._applied or bind in self.early:
                listener.prepare(slot, generation)

    def switch(self, slot: Slot, workers: Iterable[int]) -> None:
        """Send new connections to these workers of a slot. On an error all stays as it was; raises OSError."""
        before = self.live, self.workers[slot]
        self.live, self.workers[slot] = slot, tuple(workers)
        try:
            self.apply()
        except OSError:
            self.live, self.workers[slot] = before
            self.apply()
            raise
        self.early.clear()

    def apply(self) -> None:
        """Tell the kernel where new connections go, unless it knows. Raises OSError or ConfigError."""
        for bind, listener in self._wanted():
            steering = self._steering(bind, listener)
            if self._applied.get(bind) != steering:
                listener.apply(steering)
                self._applied[bind] = steering

    def _steering(self, bind: str, listener: Listener) -> Steering:
        rows: dict[Slot, tuple[int, ...]] = {"a": self._rows(listener, "a"), "b": self._rows(listener, "b")}
        canary = self.canary if listener.mode is Mode.STEERED and bind not in self.early else None
        return Steering(self.early.get(bind, self.live), rows, canary)

    def _rows(self, listener: Listener, slot: Slot) -> tuple[int, ...]:
        return self._rows_of(listener.address, listener.sockets(slot), slot)

    def _rows_of(self, address: str, sockets: Sequence[socket.socket], slot: Slot) -> tuple[int, ...]:
        count = len(self._used(address, sockets, slot))
        # With no worker at all, new connections wait in the backlogs for one to come.
        indexes = self.workers[slot] or range(max(1, self.planned[slot]))
        return tuple(sorted({index % count for index in indexes} if count else ()))

    def backlog_empty(self, slot: Slot) -> bool:
        """Whether no connection waits to be accepted in this slot's sockets."""
        poll = select.poll()
        for listener in self.listeners.values():
            # On a shared socket the other generation accepts what waits.
            if listener.mode is not Mode.SHARED:
                for sock in listener.sockets(slot):
                    poll.register(sock, select.POLLIN)
        return not poll.poll(0)
