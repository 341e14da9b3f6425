"""Runs `hook-…` lines: in order, without blocking anything else, and as the user that uWSGI would run them as."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from instar.config.nearest import did_you_mean
from instar.errors import ConfigError
from instar.supervisor.child import Child
from instar.supervisor.hooks import HookError
from instar.supervisor.plan import Credentials
from instar.supervisor.statedir import appending
from instar.system import System, describe_status
from instar.uwsgi import fifo, hook_files, letters
from instar.uwsgi.fifo import MasterFifo
from instar.uwsgi.letters import Order
from instar.uwsgi.model import Hook, Phase

#: Phases that uWSGI runs before it drops its privileges.
AS_ROOT: frozenset[Phase] = frozenset({"asap", "pre-jail", "post-jail", "in-jail", "as-root"})
#: A failure in these is logged, no more.
_HARMLESS: frozenset[Phase] = frozenset({"touch", "as-user-atexit"})
#: Actions besides those on files.
_OTHERS = (
    "cd",
    "chdir",
    "exec",
    "safeexec",
    "log",
    "print",
    "putenv",
    "spinningfifo",
    "unix_signal",
    "wait_for_dir",
    "wait_for_file",
    "wait_for_fs",
    "writefifo",
)
#: uWSGI has these as well.
_REFUSED = {
    "alarm": "there are no alarms",
    "call": "it calls a function of uWSGI's program",
    "callint": "it calls a function of uWSGI's program; unix_signal and writefifo reach those that instar has",
    "callintret": "it calls a function of uWSGI's program",
    "callret": "it calls a function of uWSGI's program",
    "exit": "use `instar stop`",
    "hostname": "it changes the whole host",
    "mount": "use a mount unit",
    "retryrpc": "there is no RPC",
    "rpc": "there is no RPC",
    "umount": "use a mount unit",
    "wait_for_socket": "use exec with a program that waits",
}
#: Seconds between two tries of `spinningfifo` and `wait_for_…`; how long the latter wait (uWSGI's default).
_TRY_EVERY, _WAIT = 0.1, 60.0
#: Seconds between two lines of the log about a `spinningfifo` that finds no reader.
_COMPLAIN_EVERY = 10.0


@dataclasses.dataclass
class HookWorld:
    """What hooks act on."""

    log: Callable[[str], object]
    system: System
    #: Where relative names start; `cd` changes it, for hooks only.
    cwd: Path
    #: Environment of programs.
    env: dict[str, str]
    #: Who the application runs as.
    user: Credentials = dataclasses.field(default_factory=Credentials)
    #: Appended with what programs say; None: our own output.
    output: Path | None = None
    #: Ours, to be obeyed without the detour through the file system.
    fifo: MasterFifo | None = None


def check(hooks: Iterable[Hook]) -> None:
    """Refuse hooks that could not run. Raises ConfigError."""
    known = (*hook_files.ACTIONS, *_OTHERS)
    for hook in hooks:
        if hook.action in _REFUSED:
            raise ConfigError(
                f"cannot run hook-{hook.phase}: instar has no {hook.action} hook: {_REFUSED[hook.action]}"
            )
        if hook.action not in known:
            raise ConfigError(
                f"cannot run hook-{hook.phase}: there is no action {hook.action}{did_you_mean(hook.action, known)}"
            )
        if hook.action == "unix_signal":
            _signal(hook)


def signals(hooks: Iterable[Hook]) -> dict[int, Order]:
    """What `unix_signal` hooks of all phases make signals do. Raises ConfigError."""
    return dict(_signal(hook) for hook in hooks if hook.action == "unix_signal")


def _signal(hook: Hook) -> tuple[int, Order]:
    number, blank, name = hook.argument.partition(" ")
    if not blank or not number.isascii() or not number.isdigit() or not 0 < int(number) < 65:
        raise ConfigError(
            f"cannot run hook-{hook.phase} unix_signal:{hook.argument}: it needs the form NUMBER FUNCTION"
        )
    if int(number) in (9, 17, 19):
        raise ConfigError(f"cannot handle signal {number}: it is the kernel's, or the supervisor's own")
    return int(number), letters.function(name.strip())


async def run(phase: Phase, hooks: Sequence[Hook], world: HookWorld) -> None:
    """Run the hooks of one phase, one after the other. Raises HookError at the first that fails, in most phases."""
    for hook in hooks:
        if hook.phase == phase:
            try:
                await _run(hook, world)
            except HookError as error:
                if phase not in _HARMLESS:
                    raise
                world.log(str(error))


async def _run(hook: Hook, world: HookWorld) -> None:
    world.log(f"hook-{hook.phase}: {_shown(hook)}")
    argument = hook.argument
    try:
        match hook.action:
            case "unix_signal":
                pass  # in force from the start
            case "cd" | "chdir":
                _change_folder(argument, world)
            case "log" | "print":
                world.log(argument)
            case "putenv":
                name, _, value = argument.partition("=")
                world.env[name] = value
            case "writefifo":
                _write_fifo(argument, world)
            case "spinningfifo":
                await _spin(argument, world)
            case "exec" | "safeexec":
                # uWSGI gives the line to a shell, and the line is the administrator's own.
                await _program(hook, ["/bin/sh", "-c", argument], world)
            case "wait_for_fs" | "wait_for_file" | "wait_for_dir":
                await _wait_for(hook.action, world.cwd / argument)
            case action:
                await _on_files(hook, action, world)
    except (OSError, ValueError, LookupError) as error:
        raise HookError(f"cannot run hook-{hook.phase} {_shown(hook)}: {hook_files.reason(error)}") from error


def _shown(hook: Hook) -> str:
    return f"{hook.action}:***" if hook.secret else f"{hook.action}:{hook.argument}"


def _change_folder(argument: str, world: HookWorld) -> None:
    folder = world.cwd / argument
    if not folder.is_dir():
        raise ValueError("there is no such folder")
    world.cwd = folder


# --- FIFOs ----------------------------------------------------------------------------------------


def _write_fifo(argument: str, world: HookWorld) -> None:
    path, text = _target(argument, world)
    if world.fifo and world.fifo.is_own(path):
        _obey(text, world.fifo, path, world)
    elif not fifo.write(path, text):
        world.log(f"nobody reads {path}")


async def _spin(argument: str, world: HookWorld) -> None:
    """Write as soon as somebody reads."""
    path, text = _target(argument, world)
    loop = asyncio.get_running_loop()
    complain_at = loop.time() + _COMPLAIN_EVERY
    while True:
        if world.fifo and world.fifo.is_own(path):
            # Two instances that start at the same time have the same first FIFO, and only one has its place: going
            # through the file system, each would tell the other.
            _obey(text, world.fifo, path, world)
            return
        try:
            if fifo.write(path, text):
                return
        except FileNotFoundError:
            pass
        if loop.time() >= complain_at:
            complain_at += _COMPLAIN_EVERY
            world.log(f"spinningfifo waits: nobody reads {path}")
        await asyncio.sleep(_TRY_EVERY)


def _target(argument: str, world: HookWorld) -> tuple[Path, str]:
    path, blank, text = argument.partition(" ")
    if not blank:
        raise ValueError("it needs the form FIFO TEXT")
    return world.cwd / path, text


def _obey(text: str, own: MasterFifo, path: Path, world: HookWorld) -> None:
    """A hook that is meant for another instance must not make this one quit."""
    if any(letters.order_of(letter) in (Order.STOP, Order.STOP_NOW) for letter in text):
        world.log(f"{path} is this instance's own FIFO: it does not tell itself to stop")
        return
    own.command(text)


# --- programs -------------------------------------------------------------------------------------


async def _wait_for(action: str, path: Path) -> None:
    look = {"wait_for_fs": path.exists, "wait_for_file": path.is_file, "wait_for_dir": path.is_dir}[action]
    end = asyncio.get_running_loop().time() + _WAIT
    while not look():
        if asyncio.get_running_loop().time() >= end:
            raise ValueError(f"it did not appear within {_WAIT:g} s")
        await asyncio.sleep(_TRY_EVERY)


async def _on_files(hook: Hook, action: str, world: HookWorld) -> None:
    if world.user.uid is None or hook.phase in AS_ROOT:
        await asyncio.to_thread(_in_folder, action, hook.argument, world.cwd)
        return
    # As the application's user: what it may not touch, its hooks may not either.
    argv = [sys.executable, "-P", "-m", "instar.uwsgi.hook_files", action, hook.argument]
    await _program(hook, argv, world)


def _in_folder(action: str, argument: str, cwd: Path) -> None:
    # Paths come first in every argument but those of links, whose target is taken as it stands.
    if action in ("symlink", "link", "rename"):
        words = argument.split(" ")
        keep = 1 if action == "symlink" else 0
        argument = " ".join(word if index < keep else str(cwd / word) for index, word in enumerate(words))
    else:
        argument = str(cwd / argument)
    hook_files.ACTIONS[action](argument)


async def _program(hook: Hook, argv: list[str], world: HookWorld) -> None:
    as_root = hook.phase in AS_ROOT
    who = Credentials() if as_root else world.user
    env: Mapping[str, str] = {**world.env, "UWSGI_HOOK_CONTEXT": hook.phase, "INSTAR_HOOK": hook.phase}
    with appending(world.output) if world.output else contextlib.nullcontext(1) as fd:
        process = world.system.spawn(argv, env=env, cwd=str(world.cwd), output=fd, rights=who)
    child = Child(process, world.system)
    try:
        status = await child.wait()
    except asyncio.CancelledError:
        await child.stop(1.0)
        raise
    if status and hook.action != "safeexec":
        raise HookError(f"hook-{hook.phase} {_shown(hook)} {describe_status(status)}")
