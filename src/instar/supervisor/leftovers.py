"""What a supervisor that died left in the state directory."""

from __future__ import annotations

import socket
from pathlib import Path

from instar.errors import InstarError
from instar.runtime.channel import Channel, Hello
from instar.supervisor.statedir import StateDir
from instar.system import unix_address

#: A living zygote answers at once, except while it imports the application (seconds).
_PATIENCE = 2.0


def clear_leftovers(state: StateDir) -> None:
    """Remove the sockets of dead zygotes. Raises InstarError when one lives: its processes hold addresses and names."""
    for path in sorted(state.app.glob("g*.sock")):
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as sock:
            sock.settimeout(_PATIENCE)
            try:
                with unix_address(path) as address:
                    sock.connect(address)
            except OSError:
                path.unlink(missing_ok=True)
                continue
            raise InstarError(_still_runs(path, _zygote(Channel(sock))))


def _zygote(channel: Channel) -> Hello | None:
    try:
        received = channel.receive()
    except (OSError, ValueError):
        return None
    return received[0] if received and isinstance(received[0], Hello) else None


def _still_runs(path: Path, hello: Hello | None) -> str:
    if hello is None:
        return f"cannot start: the zygote at {path} of a supervisor that died doesn't answer; end it first"
    return (
        f"cannot start: generation {hello.generation} of a supervisor that died still serves; "
        f"end it with `kill {hello.pid}` (it finishes its requests), then start again"
    )
