"""The module that applications import as `uwsgidecorators`.

Decorators of what instar doesn't provide exist, so that they can be imported, and raise when they are used.
"""

from __future__ import annotations

import importlib
import json
import sys
import threading
import traceback
from collections.abc import Callable
from typing import Any, NoReturn

from instar.uwsgi.inside.refused import NotProvidedError, reason

Function = Callable[..., Any]

#: By name: the module isn't a file.
uwsgi: Any = importlib.import_module("uwsgi")

postfork_chain: list[Callable[[], object]] = []
mule_functions: dict[str, Function] = {}


def postfork_chain_hook() -> None:
    """Run everything that is registered for after the fork, in order."""
    for function in postfork_chain:
        function()


uwsgi.post_fork_hook = postfork_chain_hook


class postfork:
    """Run the function in each worker and mule after its fork; `@postfork(2)`: only in worker 2."""

    def __init__(self, function: Function | int) -> None:
        self.f: Function | None = function if callable(function) else None
        self.wid = 0 if callable(function) else function
        postfork_chain.append(self)

    def __call__(self, *arguments: Any) -> Any:
        """Call the function, or take it (the second step of `@postfork(2)`)."""
        if self.f is None:
            self.f = arguments[0]
            return None
        if self.wid > 0 and self.wid != uwsgi.worker_id():
            return None
        return self.f()


class mule:
    """Run the function in a mule, once; then the mule goes on with its own program."""

    forever = False

    def __init__(self, num: int) -> None:
        self.num = num

    def __call__(self, function: Function) -> None:
        """Register it."""
        postfork_chain.append(lambda: self._run(function))

    def _run(self, function: Function) -> None:
        if uwsgi.mule_id() != self.num:
            return
        try:
            function()
            while self.forever:
                function()
        except Exception:
            traceback.print_exc()
            sys.exit(1)


class muleloop(mule):
    """Run the function in a mule, again and again."""

    forever = True


class mulemsg:
    """Call the function with each message that a mule gets."""

    def __init__(self, num: int) -> None:
        self.num = num

    def __call__(self, function: Function) -> None:
        """Register it."""

        def loop() -> None:
            while uwsgi.mule_id() == self.num:
                if message := uwsgi.mule_get_msg():
                    function(message)

        postfork_chain.append(loop)


class farm:
    """Call the function with each message to a farm, in its mules."""

    def __init__(self, name: str | None = None, **_: Any) -> None:
        self.name = name

    def __call__(self, function: Function) -> None:
        """Register it."""

        def loop() -> None:
            while uwsgi.mule_id() and uwsgi.in_farm(self.name):
                if message := uwsgi.farm_get_msg():
                    function(message)

        postfork_chain.append(loop)


class mulefunc:
    """Run the function in a mule when it is called. Arguments travel as JSON, not pickled as in uWSGI: those that
    JSON would change are refused with a TypeError."""

    def __init__(self, function: Function | int | bytes) -> None:
        self.mule: int | bytes = 0
        self.fname = ""
        if callable(function):
            self._take(function)
        else:
            self.mule = function

    def _take(self, function: Function) -> None:
        self.fname = function.__name__
        mule_functions[self.fname] = function

    def real_call(self, *args: Any, **kwargs: Any) -> None:
        """Send the call. Errors of the queue are only logged, as with `mule_msg`."""
        call = {"service": "uwsgi_mulefunc", "func": self.fname, "args": list(args), "kwargs": kwargs}
        message = json.dumps(call)
        if json.loads(message) != call:
            raise TypeError(f"cannot send the arguments of {self.fname}() to a mule: JSON would change them")
        uwsgi.mule_msg(message, self.mule)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Send the call, or take the function (the second step of `@mulefunc(2)`)."""
        if self.fname:
            return self.real_call(*args, **kwargs)
        self._take(args[0])
        return self.real_call


def mule_msg_dispatcher(message: bytes) -> Any:
    """Run a call that `mulefunc` has sent."""
    call = json.loads(message)
    if call["service"] == "uwsgi_mulefunc":
        return mule_functions[call["func"]](*call["args"], **call["kwargs"])
    return None


uwsgi.mule_msg_hook = mule_msg_dispatcher


class lock:
    """Run the function while lock 0 is held."""

    def __init__(self, f: Function) -> None:
        self.f = f

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call it."""
        uwsgi.lock()
        try:
            return self.f(*args, **kwargs)
        finally:
            uwsgi.unlock()


class thread:
    """Run the function in a daemon thread when it is called."""

    def __init__(self, f: Function) -> None:
        self.f = f

    def __call__(self, *args: Any) -> Function:
        """Start the thread."""
        threading.Thread(target=self.f, args=args, daemon=True).start()
        return self.f


class harakiri:
    """Kill the process when the function takes longer than so many seconds."""

    def __init__(self, seconds: int) -> None:
        self.s = seconds

    def __call__(self, function: Function) -> Function:
        """Wrap it."""

        def real_call(*args: Any, **kwargs: Any) -> Any:
            uwsgi.set_user_harakiri(self.s)
            result = function(*args, **kwargs)
            uwsgi.set_user_harakiri(0)
            return result

        return real_call


def _refused(name: str, function: str) -> Function:
    def refuse(*_: Any, **__: Any) -> NoReturn:
        raise NotProvidedError(f"cannot use @{name} of uwsgidecorators under instar: {reason(function)}")

    return refuse


spool = _refused("spool", "spool")
spoolraw = _refused("spoolraw", "spool")
spoolforever = _refused("spoolforever", "spool")
rpc = _refused("rpc", "rpc")
signal = _refused("signal", "signal")
timer = _refused("timer", "add_timer")
rbtimer = _refused("rbtimer", "add_rb_timer")
cron = _refused("cron", "add_cron")
filemon = _refused("filemon", "add_file_monitor")
