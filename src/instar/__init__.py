"""instar: run a Python web application and restart it without dropping a request.

Only the standard library may be imported here: this package is also loaded inside the
application's own processes, under the application's interpreter.
"""

__version__ = "0.1.0"

#: Version of the messages between supervisor and zygote and of the saved state. A newer supervisor
#: understands the previous release's (CONTRIBUTING.md, "Compatibility").
PROTOCOL = 1
