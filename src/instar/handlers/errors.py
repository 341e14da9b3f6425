"""What goes wrong with a handler's name."""

from __future__ import annotations

from instar.errors import InstarError


class HandlerError(InstarError):
    """Something about a handler's name cannot be done."""


class NotAHandlerError(HandlerError):
    """This process is not an instar handler."""


class NotActiveError(HandlerError):
    """The handler does not hold its name yet (or this process is only a child of the one that does)."""


class Fenced(HandlerError):
    """The handler has lost its name for good: nothing was written, and the process should leave."""


class LockError(HandlerError):
    """The lock file of a name cannot be used."""
