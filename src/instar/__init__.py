"""instar: run a Python web application and restart it without dropping a request.

Only the standard library may be imported here: this package is also loaded inside the
application's own processes, under the application's interpreter.
"""

__version__ = "0.1.0"

#: Version of the messages between supervisor and zygote and of the saved state. A newer supervisor
#: understands the previous release's (CONTRIBUTING.md, "Compatibility").
PROTOCOL = 1
#: The oldest version that is understood.
OLDEST_PROTOCOL = 1

TYPE_CHECKING = False
if TYPE_CHECKING:
    from instar.handlers.current import Handler, current_handler
    from instar.handlers.errors import Fenced, HandlerError, NotActiveError, NotAHandlerError
    from instar.handlers.messages import MessageTooBigError, QueueError, QueueFullError, UnknownQueueError, send
    from instar.runtime.current import current_worker, post_fork

__all__ = [
    "OLDEST_PROTOCOL",
    "PROTOCOL",
    "Fenced",
    "Handler",
    "HandlerError",
    "MessageTooBigError",
    "NotAHandlerError",
    "NotActiveError",
    "QueueError",
    "QueueFullError",
    "UnknownQueueError",
    "__version__",
    "current_handler",
    "current_worker",
    "post_fork",
    "send",
]

#: What applications import, and where it lives: imported when first used.
_HOMES = {
    "instar.handlers.current": ("Handler", "current_handler"),
    "instar.handlers.errors": ("Fenced", "HandlerError", "NotAHandlerError", "NotActiveError"),
    "instar.handlers.messages": ("MessageTooBigError", "QueueError", "QueueFullError", "UnknownQueueError", "send"),
    "instar.runtime.current": ("current_worker", "post_fork"),
}


def __getattr__(name: str) -> object:
    for home, names in _HOMES.items():
        if name in names:
            import importlib

            return getattr(importlib.import_module(home), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
