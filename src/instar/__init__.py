"""instar: run a Python web application and restart it without dropping a request.

Only the standard library may be imported here: this package is also loaded inside the
application's own processes, under the application's interpreter.
"""

__version__ = "0.1.0"

#: Version of the messages between supervisor and zygote and of the saved state. A newer supervisor
#: understands the previous release's (CONTRIBUTING.md, "Compatibility").
PROTOCOL = 1

TYPE_CHECKING = False
if TYPE_CHECKING:
    from instar.runtime.current import current_worker, post_fork

__all__ = ["PROTOCOL", "__version__", "current_worker", "post_fork"]


def __getattr__(name: str) -> object:
    """The functions for applications, imported when first used."""
    if name in ("current_worker", "post_fork"):
        from instar.runtime import current

        return getattr(current, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
