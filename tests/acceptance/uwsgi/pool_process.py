"""A pool alone: uWSGI's arguments; SIGTERM stops it, SIGHUP applies `pool.json`'s arguments, SIGUSR2 leaves for a
restart, and each line on stdin is answered with the status."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from pathlib import Path

from instar.config.formats.uwsgi import read_command_line
from instar.errors import InstarError
from instar.listeners.systemd import take_inherited
from instar.system.notify import Notifier
from instar.uwsgi.pool import Pool
from instar.uwsgi.translate import translate


def log(text: str) -> None:
    print(f"pool: {text}", file=sys.stderr, flush=True)


async def main(arguments: list[str]) -> int:
    notifier = Notifier.from_environment()
    pool = Pool(translate(read_command_line(arguments)), log, notifier=notifier, inherited=take_inherited())
    await pool.start()
    if notifier:
        notifier.ready()
    loop, ended = asyncio.get_running_loop(), asyncio.Event()
    keep = False

    def leave(*, for_restart: bool) -> None:
        nonlocal keep
        keep = for_restart
        ended.set()

    reloads = set()
    loop.add_signal_handler(signal.SIGTERM, lambda: leave(for_restart=False))
    loop.add_signal_handler(signal.SIGUSR2, lambda: leave(for_restart=True))
    loop.add_signal_handler(signal.SIGHUP, lambda: reloads.add(loop.create_task(reload(pool))))
    loop.add_reader(sys.stdin, answer, pool)
    print(json.dumps(pool.status()), flush=True)
    await ended.wait()
    loop.remove_reader(sys.stdin)
    await pool.stop(keep=keep)
    return 0


async def reload(pool: Pool) -> None:
    try:
        await pool.apply(translate(read_command_line(json.loads(Path("pool.json").read_text()))))
    except InstarError as error:
        log(str(error))


def answer(pool: Pool) -> None:
    if not sys.stdin.readline():
        asyncio.get_running_loop().remove_reader(sys.stdin)
        return
    print(json.dumps(pool.status()), flush=True)


if __name__ == "__main__":
    try:
        sys.exit(asyncio.run(main(sys.argv[1:])))
    except InstarError as error:
        sys.exit(f"pool: {error}")
