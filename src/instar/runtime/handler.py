"""Inside a freshly forked handler: shed what belongs to others, boot, wait for the name, work."""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import inspect
import json
import os
import resource
import signal
import sys
from collections.abc import Callable
from typing import Any, NoReturn

from instar.errors import InstarError
from instar.handlers import messages
from instar.handlers.current import install
from instar.handlers.keeper import identity, run_keeper
from instar.handlers.process import HandlerProcess
from instar.handlers.tree import ProcessGroup
from instar.runtime import current, extension, script
from instar.runtime.loader import Application, LoadError, explain, load
from instar.runtime.output import redirect_output
from instar.runtime.spec import GenerationSpec, HandlerSpec
from instar.runtime.worker import close_foreign, leave


def run_handler(
    spec: GenerationSpec,
    handler: HandlerSpec,
    app: Application | None,
    *,
    arm_fd: int,
    release_fd: int,
    tell: Callable[[bytes], object],
    group: ProcessGroup | None,
) -> NoReturn:
    """Be the handler until its work returns, then end the process. Runs in the forked child."""
    process: HandlerProcess | None = None

    def say(message: dict[str, Any]) -> None:
        with contextlib.suppress(OSError):
            tell(json.dumps({**message, "handler": handler.name, "pid": os.getpid()}).encode())

    try:
        _settle(spec, handler, group)
        process = HandlerProcess(
            name=handler.name,
            pool=handler.pool,
            index=handler.index,
            tags=handler.tags,
            generation=spec.generation,
            lock_path=spec.lock_path(handler.name),
            arm_fd=arm_fd,
            release_fd=release_fd,
            tell=say,
        )
        if handler.argv:
            limit = None if handler.keep_name else handler.stop_timeout
            code = run_keeper(process, handler.argv, dict(os.environ), spec.chdir, limit, group=group)
        else:
            code = _work(spec, handler, app, process)
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else 0 if error.code is None else 1
    except BaseException as error:
        text = explain(error)
        _report(error, text)
        sentence = str(error) if isinstance(error, InstarError) else f"{type(error).__name__}: {error}"
        say({"event": "failed", "error": sentence[:2000], "traceback": text[-20000:]})
        code = 1
    # When nothing is left that could write under the name, the successor need not wait until the kernel has freed
    # the memory, which it does before it closes files.
    leave(code, process.hand_on if process else None)


def _report(error: BaseException, text: str) -> None:
    """As Python ends: the application may have put a hook of its own in place, for a service that collects errors."""
    with contextlib.suppress(BaseException):
        if sys.excepthook is not sys.__excepthook__:
            sys.excepthook(type(error), error, error.__traceback__)
            return
    print(text, end="", file=sys.stderr, flush=True)


def _settle(spec: GenerationSpec, handler: HandlerSpec, group: ProcessGroup | None) -> None:
    # A session of its own: its group can be signalled, and a terminal's Ctrl-C does not reach it.
    os.setsid()
    # Before any of its code: what it starts belongs to the group as well.
    if group and not handler.argv:
        group.enter()
    redirect_output(spec.output_dir, handler.name)
    close_foreign(spec, ())
    # A core dump would keep the name held while gigabytes are written.
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
    if handler.memory_max and not (group and group.memory_limited):
        # Without the controller: private memory, of each process by itself (setrlimit(2), RLIMIT_DATA).
        resource.setrlimit(resource.RLIMIT_DATA, (handler.memory_max, handler.memory_max))
    os.environ.update(handler.env)
    os.environ["INSTAR_STOP_TIMEOUT"] = f"{handler.stop_timeout:g}"
    # A warm handler may clean up; SIGTERM comes when it took too long to release.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    messages.install_queues({queue.name: queue.ends for queue in spec.queues}, handler.pool, handler.name)
    if extending := extension.get():
        extending.in_handler(handler)
    current.run_post_fork_hooks()


def _work(spec: GenerationSpec, handler: HandlerSpec, app: Application | None, process: HandlerProcess) -> int:
    install(process)
    os.environ.update(identity(process))
    extending = extension.get()
    if app is None and spec.target and (extending is None or extending.loads_in(handler)):
        # In a lazy generation each process imports for itself.
        app = load(spec.target, factory=spec.factory, interface=spec.interface)
        if extending:
            extending.loaded(app)
    target = None if handler.script else find(handler.target)
    if (target is None or not handler.warm) and not process.wait_active():
        return 0
    # Now with the epoch.
    os.environ.update(identity(process))
    if target is None:
        return script.run(handler.script)
    result = target()
    if inspect.iscoroutine(result):
        asyncio.run(_await(result))
    return 0


async def _await(coroutine: Any) -> None:
    await coroutine


def find(target: str) -> Callable[[], Any]:
    """The callable that `module:callable` names. Raises LoadError; the module's own errors come through."""
    module, _, path = target.partition(":")
    value: Any = importlib.import_module(module)
    for name in path.split("."):
        try:
            value = getattr(value, name)
        except AttributeError:
            raise LoadError(f"cannot find {path!r} in {module}: check the handler's target") from None
    if not callable(value):
        raise LoadError(f"cannot run {target}: it is not callable")
    found: Callable[[], Any] = value
    return found
