"""How a program that knows nothing of instar leaves a handler's process: by a signal, which it may handle itself."""

from __future__ import annotations

import os
import signal
import threading
from types import FrameType

from instar.handlers import current
from instar.runtime.worker import leave

#: Seconds that the main thread has to look at the signal, if the program has no handler of its own.
PATIENCE = 1.0


class Ending:
    """Signals that end this process at once with `code`: exit handlers run, `finally` blocks don't.

    A handler that the program puts in place itself decides instead.
    """

    def __init__(self, numbers: tuple[signal.Signals, ...], code: int) -> None:
        self._numbers = numbers
        self._code = code
        self._masks = threading.local()

    def install(self) -> None:
        """From now on; for the main thread."""
        for number in self._numbers:
            signal.signal(number, self._end)
        # A forked child of the program ends as if we weren't there: its parent looks at how it did. Python forgets
        # signals that arrive in a child before it has begun, so that they have to wait meanwhile.
        os.register_at_fork(before=self._hold, after_in_parent=self._let, after_in_child=self._let_child)

    def ours(self, number: signal.Signals) -> bool:
        """Whether the program has no handler of its own."""
        return signal.getsignal(number) == self._end

    def ask(self, number: signal.Signals) -> None:
        """Send the signal, from any thread."""
        signal.pthread_kill(threading.main_thread().ident or 0, number)
        if self.ours(number):
            # Python runs handlers between two instructions of the main thread, which may be in a C function for long.
            timer = threading.Timer(PATIENCE, self._end_hard, (number,))
            timer.daemon = True
            timer.start()

    def _hold(self) -> None:
        self._masks.before = signal.pthread_sigmask(signal.SIG_BLOCK, self._numbers)

    def _let(self) -> None:
        signal.pthread_sigmask(signal.SIG_SETMASK, self._masks.before)

    def _let_child(self) -> None:
        for number in self._numbers:
            if self.ours(number):
                signal.signal(number, signal.SIG_DFL)
        self._let()

    def _end(self, _number: int, _frame: FrameType | None) -> None:
        for number in self._numbers:
            signal.signal(number, signal.SIG_IGN)
        leave(self._code, current.hand_on)

    def _end_hard(self, number: signal.Signals) -> None:
        if self.ours(number):
            os._exit(self._code)
