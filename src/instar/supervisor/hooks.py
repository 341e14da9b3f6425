"""Runs the configured hooks: `before`, `after`, `on_rollback`."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

from instar.config import expand_command
from instar.config.hook import Hook
from instar.supervisor.child import Child
from instar.supervisor.plan import Plan
from instar.supervisor.statedir import appending
from instar.system import System, describe_status


class HookError(Exception):
    """A hook failed; the message says which and how."""


async def run_hooks(hooks: Sequence[Hook], plan: Plan, output: Path, env: dict[str, str], system: System) -> None:
    """Run them one after the other, as the application's user, in its folder; raises HookError at the first failure.

    `env`: what they are told of the handover. Their output is appended to the file `output`.
    """
    for hook in hooks:
        argv = expand_command(tuple(hook.command), plan.python)
        try:
            with appending(output) as fd:
                process = system.spawn(
                    argv,
                    env={**plan.environment(), **env, **hook.env},
                    cwd=plan.release,
                    output=fd,
                    rights=plan.credentials,
                )
        except OSError as error:
            raise HookError(f"cannot run hook {argv[0]}: {error.strerror}") from error
        await _finish(Child(process, system), argv, hook.timeout)


async def _finish(child: Child, argv: list[str], timeout: float) -> None:
    try:
        status = await asyncio.wait_for(child.wait(), timeout)
    except TimeoutError:
        await child.stop(1.0)
        raise HookError(f"hook {' '.join(argv)} took longer than {timeout:g} s and was ended") from None
    except asyncio.CancelledError:
        await child.stop(1.0)
        raise
    if status:
        raise HookError(f"hook {' '.join(argv)} {describe_status(status)}")
