"""Pools in this process: whose sockets come from where, who is told what, and whom the router makes room for."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from instar.config.address import parse_address
from instar.errors import InstarError
from instar.listeners.systemd import Inherited
from instar.system.notify import Notifier, close_all, notice_socket, receive
from instar.uwsgi import model, side, zerg
from instar.uwsgi.attach import Zergling
from instar.uwsgi.binds import leads_to
from instar.uwsgi.kept import stored_as
from instar.uwsgi.pool import Pool

ANY = "127.0.0.1:0"


class Place:
    """A folder, what was said, and pools and zerglings that end with the test."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.path = folder / "pool.sock"
        self.said: list[str] = []
        self.stack = contextlib.AsyncExitStack()

    def instance(self, *addresses: str, http: str = "", nodes: tuple[str, ...] = (), mode: int | None = None):
        pools = (model.ZergPool(self.path, addresses),) if addresses else ()
        routers = (model.Router(http, nodes),) if http else ()
        return model.Instance(options=(), pools=pools, routers=routers, socket_mode=mode, mercy=0.2)

    async def pool(self, instance: model.Instance, **more) -> Pool:
        found = Pool(instance, self.said.append, locks=self.folder, **more)
        await found.start()
        self.stack.push_async_callback(found.stop)
        return found

    async def zergling(self, *, name: str = "one") -> Zergling:
        found = Zergling([self.path], name=name, log=self.said.append)
        await found.attach()
        self.stack.push_async_callback(found.close)
        return found


@pytest.fixture
async def place(tmp_path: Path) -> AsyncIterator[Place]:
    found = Place(tmp_path)
    async with found.stack:
        yield found


async def until(check) -> None:
    async with asyncio.timeout(20):
        while not check():
            await asyncio.sleep(0.01)


def free_address() -> str:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        return f"127.0.0.1:{sock.getsockname()[1]}"


async def test_ours_get_http_sockets_and_others_never(place: Place) -> None:
    tcp, http = free_address(), free_address()
    pool = await place.pool(place.instance(tcp, f"unix:{place.folder}/app", http=http, nodes=(tcp,)))
    ours = await place.zergling()
    assert [item.bind for item in ours.sockets] == [f"uwsgi:{tcp}", f"uwsgi:unix:{place.folder}/app", http]
    assert ours.own_pools == (place.path,)
    others = await asyncio.to_thread(zerg.attach, place.path)
    assert len(others) == 2
    for sock in others:
        sock.close()
    [row] = pool.status()["pools"]
    assert row["zerglings"] == [{"name": "one", "pid": os.getpid(), "state": "starting"}]


async def test_the_router_makes_room_while_one_of_ours_serves(place: Place) -> None:
    tcp, http = free_address(), free_address()
    pool = await place.pool(place.instance(tcp, http=http, nodes=(tcp,)))
    [router] = pool._routers.values()
    one, two = await place.zergling(), await place.zergling(name="two")
    assert router.status()["on"]
    one.say("serving")
    await until(lambda: not router.status()["on"])
    two.say("serving")
    one.say("leaving")
    await until(lambda: {row["state"] for row in pool.status()["pools"][0]["zerglings"]} == {"leaving", "serving"})
    assert not router.status()["on"]
    # No farewell: the end of the connection says enough.
    await two.close()
    await until(lambda: router.status()["on"])


async def test_a_zergling_that_has_not_the_router_s_socket_does_not_turn_it_off(place: Place) -> None:
    tcp, http = free_address(), free_address()
    pool = await place.pool(place.instance(tcp))
    one = await place.zergling()
    one.say("serving")
    await pool.apply(place.instance(tcp, http=http, nodes=(tcp,)))
    await until(lambda: any("has a new socket" in text for text in place.said))
    [router] = pool.status()["routers"]
    assert router["on"]


async def test_a_router_to_somewhere_else_is_not_for_zerglings(place: Place) -> None:
    tcp, http = free_address(), free_address()
    await place.pool(place.instance(tcp, http=http, nodes=(tcp, "127.0.0.1:9")))
    ours = await place.zergling()
    assert [item.bind for item in ours.sockets] == [f"uwsgi:{tcp}"]


@pytest.mark.parametrize(
    ("node", "address", "same"),
    [
        ("127.0.0.1:4001", "127.0.0.1:4001", True),
        ("127.0.0.1:4001", "0.0.0.0:4001", True),
        ("localhost:4001", "127.0.0.1:4001", True),
        ("0.0.0.0:4001", "127.0.0.1:4001", True),
        ("127.0.0.1:4001", "[::]:4001", True),
        ("127.0.0.1:4001", "127.0.0.1:4002", False),
        ("10.0.0.1:4001", "127.0.0.1:4001", False),
        ("127.0.0.1:0", "127.0.0.1:0", False),
        ("unix:/a", "unix:/a", True),
        ("unix:/a", "unix:/b", False),
        ("unix:/a", "127.0.0.1:1", False),
    ],
)
def test_which_nodes_lead_to_a_pool(node: str, address: str, same: bool) -> None:
    assert leads_to(parse_address(node), parse_address(address)) is same


async def test_a_zergling_finds_a_restarted_pool_and_says_how_it_is(place: Place) -> None:
    tcp = free_address()
    first = await place.pool(place.instance(tcp))
    one = await place.zergling()
    one.say("serving")
    await first.stop(keep=False)
    await until(lambda: not one.own_pools)
    # Nobody kept its sockets: they come back from the zergling.
    second = await place.pool(place.instance(tcp))
    await until(lambda: one.own_pools)
    assert side.identity(second.sockets[0].socket) == side.identity(one.sockets[0].socket)
    assert second.status()["pools"][0]["zerglings"][0]["state"] == "serving"


async def test_no_sockets_are_taken_back_that_are_bound_elsewhere(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("instar.uwsgi.opening._RETURN", 0.7)
    tcp = free_address()
    with (
        socket.create_server(("127.0.0.1", int(tcp.rpartition(":")[2]))),
        socket.create_server(("127.0.0.1", 0)) as other,
    ):
        start = asyncio.create_task(place.pool(place.instance(tcp)))
        await until(lambda: side.side_path(place.path).exists())
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as liar:
            liar.connect(str(side.side_path(place.path)))
            side.send(liar, {"hello": 1, "state": "serving", "sockets": "all", "name": 7}, [other, liar])
            with pytest.raises(InstarError, match="the address is in use"):
                await start


@pytest.mark.parametrize(
    "packet",
    [b"", b"{}", b"[]", b"\xff", b'{"hello": 1}', b'{"state": ["serving"], "sockets": [null, "1", -1]}', b"x" * 70000],
)
async def test_nonsense_on_the_side_socket(place: Place, packet: bytes) -> None:
    pool = await place.pool(place.instance(ANY))
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as stranger:
        stranger.connect(str(side.side_path(place.path)))
        with contextlib.suppress(OSError):
            stranger.send(packet)
        await asyncio.sleep(0.05)
    await until(lambda: not pool.status()["pools"][0]["zerglings"])
    assert (await place.zergling()).own_pools


# --- a supervisor that keeps descriptors ---------------------------------------------------------------


class Supervisor:
    """Takes notifications in a thread of its own, since pools wait for it."""

    def __init__(self, folder: Path) -> None:
        self.sock = notice_socket(folder / "notify")
        self.notifier = Notifier(str(folder / "notify"))
        self.stored: dict[str, int] = {}
        self.removed: list[str] = []
        asyncio.get_running_loop().add_reader(self.sock, self._read)

    def _read(self) -> None:
        while (notice := receive(self.sock)) is not None:
            name = notice.fields.get("FDNAME", "")
            if "FDSTORE" in notice.fields:
                self.stored[name] = os.dup(notice.fds[0])
            if "FDSTOREREMOVE" in notice.fields:
                os.close(self.stored.pop(name))
                self.removed.append(name)
            notice.close()

    def inherited(self) -> list[Inherited]:
        return [Inherited(name, socket.socket(fileno=os.dup(fd))) for name, fd in self.stored.items()]

    def close(self) -> None:
        asyncio.get_running_loop().remove_reader(self.sock)
        self.sock.close()
        close_all(self.stored.values())


@pytest.fixture
async def supervisor(tmp_path: Path) -> AsyncIterator[Supervisor]:
    found = Supervisor(tmp_path)
    yield found
    found.close()


async def test_all_sockets_are_left_with_the_supervisor_and_taken_back(place: Place, supervisor: Supervisor) -> None:
    http = free_address()
    plan = place.instance(ANY, f"unix:{place.folder}/app", http=http, nodes=(f"unix:{place.folder}/app",))
    first = await place.pool(plan, notifier=supervisor.notifier)
    names = {stored_as("pool", ANY), stored_as("pool", f"unix:{place.folder}/app"), stored_as("http", http)}
    assert supervisor.stored.keys() == names | {stored_as("zerg", f"unix:{place.path}")}
    before = [side.identity(item.socket) for item in first.sockets]
    await first.stop()
    # The zerg socket too: whoever connects meanwhile waits.
    assert place.path.exists()
    waiting = asyncio.create_task(asyncio.to_thread(zerg.attach, place.path))
    second = await place.pool(plan, notifier=supervisor.notifier, inherited=supervisor.inherited())
    assert [side.identity(item.socket) for item in second.sockets] == before
    for sock in await waiting:
        sock.close()
    assert not supervisor.removed


async def test_what_the_configuration_has_no_longer_is_forgotten(place: Place, supervisor: Supervisor) -> None:
    old, new = free_address(), free_address()
    first = await place.pool(place.instance(old), notifier=supervisor.notifier)
    await first.stop(keep=True)
    inherited = supervisor.inherited()
    second = await place.pool(place.instance(new), notifier=supervisor.notifier, inherited=inherited)
    await until(lambda: supervisor.removed == [stored_as("pool", old)])
    assert any("a socket of an earlier configuration is closed" in text for text in place.said)
    assert [item.bind for item in second.sockets] == [f"uwsgi:{new}"]
    # At the end for good, all are.
    await second.stop(keep=False)
    await until(lambda: not supervisor.stored)
    assert not place.path.exists()


async def test_a_socket_whose_path_was_removed_is_bound_again(place: Place, supervisor: Supervisor) -> None:
    plan = place.instance(f"unix:{place.folder}/app")
    first = await place.pool(plan, notifier=supervisor.notifier)
    await first.stop(keep=True)
    (place.folder / "app").unlink()
    await place.pool(plan, notifier=supervisor.notifier, inherited=supervisor.inherited())
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(place.folder / "app"))


async def test_socket_activation_gives_a_pool_its_address(place: Place) -> None:
    with socket.create_server(("127.0.0.1", 0)) as given:
        bind = f"127.0.0.1:{given.getsockname()[1]}"
        pool = await place.pool(place.instance(bind), inherited=[Inherited("pool.socket", given.dup())])
        assert side.identity(pool.sockets[0].socket) == side.identity(given)


async def test_a_failed_start_leaves_everything_for_the_next(place: Place, supervisor: Supervisor) -> None:
    tcp = free_address()
    first = await place.pool(place.instance(tcp), notifier=supervisor.notifier)
    await first.stop(keep=True)
    with pytest.raises(InstarError, match="no socket; move it away"):
        (place.folder / "file").touch()
        await place.pool(
            place.instance(tcp, f"unix:{place.folder}/file"),
            notifier=supervisor.notifier,
            inherited=supervisor.inherited(),
        )
    assert stored_as("pool", tcp) in supervisor.stored
    await place.pool(place.instance(tcp), notifier=supervisor.notifier, inherited=supervisor.inherited())


async def test_permissions(place: Place) -> None:
    await place.pool(place.instance(f"unix:{place.folder}/app", mode=0o600))
    for path in (place.path, side.side_path(place.path), place.folder / "app"):
        assert path.stat().st_mode & 0o777 == 0o600
