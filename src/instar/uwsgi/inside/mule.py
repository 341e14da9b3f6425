"""A mule: a handler whose program is a script or a function of the application, in uWSGI's surroundings."""

from __future__ import annotations

import signal
import sys
import traceback
from typing import Any

from instar.errors import InstarError
from instar.handlers import current
from instar.runtime import extension
from instar.runtime.ending import Ending
from instar.runtime.handler import find
from instar.uwsgi.inside import files
from instar.uwsgi.inside.data import MuleData
from instar.uwsgi.inside.extension import UwsgiExtension
from instar.uwsgi.inside.mail import Mail

#: UWSGI_END_CODE: how a mule ends that was asked to, and one whose script has come to its end.
END = 30
_ENDING = (signal.SIGHUP, signal.SIGINT, signal.SIGTERM)
_IGNORED = (signal.SIGALRM, signal.SIGUSR1, signal.SIGUSR2, signal.SIGTSTP)


def run() -> None:
    """Target of the handlers that are mules; called when the process holds its name. Returns when its script does."""
    inside = extension.get()
    if not isinstance(inside, UwsgiExtension) or inside.mule is None:
        raise InstarError("cannot run a mule: this process isn't one; its handler's name must be a mule's")
    # What uWSGI's own handler does: exit at once.
    ending = Ending(_ENDING, END)
    ending.install()
    for number in _IGNORED:
        signal.signal(number, signal.SIG_IGN)
    current.current_handler().on_release(lambda: _release(inside.mail, ending))
    # Only now: what the hooks start, or do for ever (@mule, @farm), is done under the name.
    inside.run_post_fork_hook()
    _work(inside.mule, inside)


def _work(mule: MuleData, inside: UwsgiExtension) -> None:
    if mule.script:
        files.run_file("__main__", mule.script)
    elif mule.target:
        module, _, name = mule.target.partition(":")
        find(f"{module}:{name.removesuffix('()')}")()
    else:
        _listen(mule, inside)


def _listen(mule: MuleData, inside: UwsgiExtension) -> None:
    """A mule that was given no program: its messages go to `uwsgi.mule_msg_hook`."""
    while True:
        message = inside.mail.for_mule(True, 65536, None)
        hook: Any = inside.module.__dict__.get("mule_msg_hook")
        if message is None:
            continue
        if hook is None:
            print(f"*** mule {mule.number} received a {len(message)} bytes message ***", file=sys.stderr, flush=True)
            continue
        try:
            hook(message)
        except Exception:
            traceback.print_exc()


def _release(mail: Mail, ending: Ending) -> None:
    """The name is wanted: SIGHUP, as at a reload of uWSGI. A handler of the script's own decides what happens."""
    if not ending.ours(signal.SIGHUP):
        mail.leave()
    ending.ask(signal.SIGHUP)
