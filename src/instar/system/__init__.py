"""Effects on the operating system, behind one object that tests replace."""

from instar.system.effects import System, describe_status
from instar.system.paths import unix_address

__all__ = ["System", "describe_status", "unix_address"]
