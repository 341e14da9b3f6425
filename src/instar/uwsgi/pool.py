"""The pools and routers of an instance: listening sockets that outlive every zergling, and the pool itself.

While a zergling of ours serves, it takes HTTP connections itself, on the router's own socket, and the router is off.
Without one the router is on, for zerglings of the real uWSGI. What waits in the socket's backlog is accepted by
whoever is on next, so no connection is lost in between.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from instar.config.address import Address, parse_address
from instar.listeners.systemd import Inherited
from instar.supervisor.statedir import lock_folder
from instar.system.notify import Notifier
from instar.uwsgi import model
from instar.uwsgi.attach import Attached
from instar.uwsgi.kept import Kept
from instar.uwsgi.opening import Opener
from instar.uwsgi.router import Router
from instar.uwsgi.zergpool import OnePool


class Pool:
    """All pools and routers of one instance. `start`, then `apply` for a changed configuration, then `stop`."""

    def __init__(
        self,
        instance: model.Instance,
        log: Callable[[str], object],
        *,
        notifier: Notifier | None = None,
        inherited: Sequence[Inherited] = (),
        locks: Path | None = None,
    ) -> None:
        """`notifier`: who keeps the sockets when we die. `inherited`: those that it kept (`take_inherited`).

        Only sockets that are ours are taken of `inherited`, see `kept.stored_as`, and those bound to our addresses.
        """
        self._instance = instance
        self._log = log
        self._supervised = notifier is not None
        self._kept = Kept(notifier, inherited, log)
        self._opener = Opener(self._kept, backlog=instance.backlog, mode=instance.socket_mode, log=log)
        self._locks = locks
        self._pools: dict[Path, OnePool] = {}
        self._routers: dict[Address, Router] = {}

    async def start(self) -> None:
        """Open everything. Raises InstarError; what the supervisor keeps stays there for the next try."""
        try:
            await self._open(self._instance)
        except BaseException:
            await self.stop(keep=True, grace=0.0)
            raise
        self._kept.discard_strangers()
        if not await asyncio.to_thread(self._kept.settle):
            self._log("the supervisor does not confirm that it keeps the sockets: they may not outlive this process")

    async def apply(self, instance: model.Instance) -> None:
        """Open and close what another configuration changes; nothing else is touched.

        Raises InstarError; all is as it was then.
        """
        try:
            await self._open(instance)
        except BaseException:
            await self._trim(self._instance)
            raise
        self._instance = instance
        await self._trim(instance)
        await asyncio.to_thread(self._kept.settle)

    async def stop(self, *, keep: bool | None = None, grace: float | None = None) -> None:
        """Stop, after open requests of the router (at most `grace` seconds; the instance's mercy).

        `keep`: the sockets stay as they are for the next start. Else they are closed for good, and their paths removed;
        zerglings go on serving what they hold. None: a supervisor that has copies knows whether there is a next start.
        """
        keep = self._supervised if keep is None else keep
        grace = self._instance.mercy if grace is None else grace
        for pool in self._pools.values():
            pool.close(keep=keep)
        await asyncio.gather(*(router.stop(grace) for router in self._routers.values()))
        self._pools, self._routers = {}, {}
        self._kept.close(keep=keep)

    @property
    def sockets(self) -> tuple[Attached, ...]:
        """The pools' sockets, for an application in the same instance."""
        protocol = self._instance.protocol
        return tuple(
            Attached(sock, protocol, pool.path) for pool in self._pools.values() for sock in pool.addresses.values()
        )

    def status(self) -> dict[str, Any]:
        """For `status`: `pools` and `routers`."""
        return {
            "pools": [pool.status() for pool in self._pools.values()],
            "routers": [router.status() for router in self._routers.values()],
        }

    async def _open(self, instance: model.Instance) -> None:
        with self._opener.opening():
            await self._open_all(instance)
        self._answer()

    async def _trim(self, instance: model.Instance) -> None:
        """Close what this configuration has not."""
        plans = {plan.path: plan for plan in instance.pools}
        routes = {parse_address(route.address): route for route in instance.routers}
        for path in list(self._pools):
            if path in plans:
                self._pools[path].trim(plans[path])
            else:
                self._pools.pop(path).close(keep=False)
        for address in list(self._routers):
            if address in routes:
                self._routers[address].aim(routes[address])
            else:
                await self._routers.pop(address).stop(instance.mercy)
                self._kept.release("http", address)
        self._answer()

    def _answer(self) -> None:
        """Hand out what there is now."""
        for pool in self._pools.values():
            pool.answer([router.listener for router in self._routers.values() if pool.serves_all(router.nodes)])
        self._direct()

    async def _open_all(self, instance: model.Instance) -> None:
        for plan in instance.pools:
            if plan.path not in self._pools:
                self._pools[plan.path] = OnePool(
                    plan.path,
                    self._opener,
                    self._locks or lock_folder(),
                    self._log,
                    self._direct,
                    instance.socket_mode,
                )
            await self._pools[plan.path].open(plan)
        for route in instance.routers:
            address = parse_address(route.address)
            if address in self._routers:
                self._routers[address].aim(route)
            else:
                listener = await self._opener.open("http", address)
                self._routers[address] = Router(address, listener, route, self._log)

    def _direct(self) -> None:
        """Switch each router on or off: off while zerglings of ours serve its own socket."""
        for router in self._routers.values():
            if any(pool.serves(router.listener) for pool in self._pools.values()):
                router.pause()
            else:
                router.resume()
