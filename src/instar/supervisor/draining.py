"""Sends the clients of a generation away and tells when the last one has gone."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from instar.runtime.scoreboard import Column, Drain, State
from instar.supervisor.frontend import Frontend
from instar.supervisor.generation import Generation
from instar.supervisor.outside import count_from_outside

#: Seconds between two looks at the scoreboard.
_LOOK_EVERY = 0.05
#: Surveys that must have ended since the start: the first may have begun before it.
_FRESH = 2
#: Seconds after which the server's idle time-out has surely acted.
_IDLE_MARGIN = 1.0


class Draining:
    """One generation on its way out. `end_now` cuts it short; `abandon` gives it up (the generation serves again)."""

    def __init__(self, generation: Generation, frontend: Frontend) -> None:
        self.generation = generation
        self._frontend = frontend
        self._surveys: dict[int, int] = {}
        self._cut = asyncio.Event()
        self.abandoned = False
        self._leaving = False

    def stop_accepting(self) -> None:
        """Nobody follows: new connections are left to others that hold the sockets, or are refused."""
        self._leaving = True
        self.generation.pause_accepting(gated=True)

    def begin(self) -> None:
        """Each response from now on closes its connection."""
        board = self.generation.board
        self._surveys = {row: board.get(row, Column.SURVEYS) for row in range(board.rows)}
        self.generation.drain(Drain.CLOSE)

    def end_now(self) -> None:
        """Don't wait for clients any longer."""
        self._cut.set()

    def abandon(self) -> None:
        """Stop draining: clients may come again."""
        self.abandoned = True
        self.generation.drain(Drain.LIVE)
        self._cut.set()

    async def finish(self, limit: float, stream_grace: float, progress: Callable[[str], None]) -> str:
        """Wait for the last client; returns why it ended: `quiet`, `limit`, `now` or `abandoned`. Seconds."""
        loop = asyncio.get_running_loop()
        began = loop.time()
        while True:
            if self.abandoned:
                return "abandoned"
            if self._cut.is_set():
                return "now"
            elapsed = loop.time() - began
            if self.quiet(elapsed):
                return "quiet"
            if elapsed >= limit:
                return "limit"
            if elapsed >= stream_grace and self.generation.board.drain is Drain.CLOSE:
                self.generation.drain(Drain.END_STREAMS)
            progress(self._describe())
            await asyncio.sleep(_LOOK_EVERY)

    def quiet(self, elapsed: float = 0.0) -> bool:
        """Whether no client is left: none connected, none being served, none waiting to be accepted.

        HTTP/2 clients count only until streams are ended: no header can send them away, only the GOAWAY at the stop
        signal does (RFC 9113 section 6.8), and that loses nothing.
        """
        if self.generation.plan.config.web.engine == "command":
            return self._quiet_from_outside()
        rows = self.generation.board_rows()
        # With no worker left nobody will accept what waits in the sockets: waiting for it has no end.
        if not rows:
            return True
        quiet = all(self._row_quiet(row, elapsed) for row in rows)
        if self._leaving:
            # A signal may come late to a busy worker: until then it accepts.
            return quiet and all(self.generation.board.get(row, Column.STATE) == State.STOPPING for row in rows)
        return quiet and self._frontend.backlog_empty(self.generation.slot)

    def _row_quiet(self, row: int, elapsed: float) -> bool:
        board = self.generation.board
        if board.get(row, Column.SURVEYS) < self._surveys.get(row, 0) + _FRESH:
            return False
        ending = board.drain is Drain.END_STREAMS
        if not board.has_clients(row, besides_http2=ending):
            return True
        return ending and not board.get(row, Column.IN_FLIGHT) and self._only_http2(row, elapsed)

    def _only_http2(self, row: int, elapsed: float) -> bool:
        """Whether the connections must be HTTP/2 ones, where the server does not tell the application which are.

        By then the server has closed every HTTP/1 connection that idled since the cut-over.
        """
        web = self.generation.plan.config.web
        spoken = self.generation.board.get(row, Column.HTTP2) and elapsed > web.keep_alive + _IDLE_MARGIN
        return web.http == "2" or bool(spoken)

    def _quiet_from_outside(self) -> bool:
        sockets = [s for item in self._frontend.listeners.values() for s in item.sockets(self.generation.slot)]
        left = count_from_outside(list(self.generation.workers), sockets)
        return not left and self._frontend.backlog_empty(self.generation.slot)

    def _describe(self) -> str:
        connections, requests = self.generation.sum(Column.CONNECTIONS), self.generation.sum(Column.IN_FLIGHT)
        return f"{connections} connections, {requests} requests"
