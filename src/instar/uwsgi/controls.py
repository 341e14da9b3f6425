"""Everything that an instance is told its orders by: FIFO, signals, touched files, Emperor."""

from __future__ import annotations

import functools
from collections.abc import Callable

from instar.errors import InstarError
from instar.supervisor.handover import Options
from instar.supervisor.plan import Parts
from instar.supervisor.tasks import Tasks
from instar.uwsgi import hooks
from instar.uwsgi.around import Around
from instar.uwsgi.emperor.link import News
from instar.uwsgi.letters import order_of
from instar.uwsgi.master import Host, Master
from instar.uwsgi.model import Hook
from instar.uwsgi.touches import Touches


class Controls:
    """Owner of the FIFO and of the pidfiles, from `open` to `close`."""

    def __init__(self, around: Around, host: Host) -> None:
        self._around = around
        self._host = host
        self._tasks = Tasks(lambda text: around.log(text))
        self.master = Master(host, lambda text: around.log(text), pidfiles=around.write_pidfiles)
        self.master.sos = functools.partial(around.link.say, News.SOS)
        self.fifo = around.fifo(self.master.letter)

    def signals(self) -> dict[int, Callable[[], object]]:
        """What each signal does."""
        orders = self._around.signals()
        return {
            number: functools.partial(self.master.obey, order, f"signal {number}") for number, order in orders.items()
        }

    def open(self) -> None:
        """Listen from now on. Raises InstarError."""
        around = self._around
        around.write_pidfiles()
        self.fifo.open()
        around.link.say(News.SPAWNED)
        around.link.listen(functools.partial(self.master.obey, source="the Emperor"))
        touches = Touches(around.instance.touches, lambda text: around.log(text))
        self._tasks.spawn(touches.watch(self._touched), "touched files")

    async def close(self) -> None:
        """Listen no more."""
        await self._tasks.cancel()
        self.fifo.close()

    async def _touched(self, action: str) -> None:
        if action == "mules":
            try:
                self._host.reload(Options(parts=Parts(web=False)))
            except InstarError as error:
                self._around.log(str(error))
        elif order := order_of(action):
            self.master.obey(order, "a touched file")
        else:
            name, _, argument = action.partition(":")
            await hooks.run("touch", [Hook("touch", name, argument)], self._around.world)
