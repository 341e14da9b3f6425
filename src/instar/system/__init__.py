"""Effects on the operating system, behind one object that tests replace."""

from instar.system.effects import System, describe_status
from instar.system.paths import unix_address
from instar.system.rights import Rights, bounded

__all__ = ["Rights", "System", "bounded", "describe_status", "unix_address"]
