"""Where `instar uwsgi` takes part in the life of the application's processes."""

from __future__ import annotations

from instar.runtime import extension


class UwsgiExtension(extension.Extension):
    """Installs the `uwsgi` module before the application is loaded and tells it which process it is in."""
