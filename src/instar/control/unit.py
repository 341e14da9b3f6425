"""A systemd unit for an application (systemd.service(5), systemd.exec(5)), with the reason for each choice."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import Final

from instar.config import Config

#: Added to instar's own limits: systemd's are there for a supervisor that hangs (seconds).
_MARGIN: Final = 30
#: What a supervisor that is root needs: become the application's user, own its folders, low ports, limits, and look
#: at the descriptors of another user's processes.
_ROOT_CAPABILITIES: Final = (
    "CAP_SETUID CAP_SETGID CAP_CHOWN CAP_FOWNER CAP_DAC_OVERRIDE CAP_KILL CAP_NET_BIND_SERVICE CAP_SYS_PTRACE "
    "CAP_SYS_RESOURCE CAP_SYS_NICE"
)


@dataclasses.dataclass(frozen=True)
class UnitOptions:
    """What the configuration does not say."""

    #: Command line of instar: program and arguments before the verb.
    program: tuple[str, ...]
    #: Absolute path of the configuration.
    config: Path
    #: User= of the unit; empty: root, which changes to `app.user` for all that runs application code.
    user: str = ""


def unit(config: Config, options: UnitOptions) -> str:
    """The text of the unit."""
    name = config.app.name
    sections = (_unit_section(name), _service(config, options), "[Install]\nWantedBy=multi-user.target")
    return "\n\n".join(sections) + "\n"


def _unit_section(name: str) -> str:
    return f"""[Unit]
Description={_escaped(name)}
After=network.target
# A supervisor that dies again and again is left alone after a while; what it started serves on.
StartLimitIntervalSec=60
StartLimitBurst=5"""


def _service(config: Config, options: UnitOptions) -> str:
    command = " ".join(_quoted(word) for word in options.program)
    file = _quoted(str(options.config))
    holds = [pool.stop_timeout for pool in config.handlers.values()]
    stop = max([config.restart.drain_timeout, *holds]) + _MARGIN
    start = config.restart.boot_timeout + stop
    return f"""[Service]
# The start is over when the first generation serves. Not notify-reload: only ExecReload can say that a restart failed.
Type=notify
# Nobody but the supervisor speaks for the unit: not a worker that somebody has taken over.
NotifyAccess=main
ExecStart={command} run -c {file}
# Waits for the result: `systemctl reload` fails when the new code fails, and the old code serves on.
ExecReload={command} restart -c {file}
# Only the supervisor is stopped or killed by systemd. On SIGTERM it ends its processes itself, when their clients
# have gone. If it dies, they serve on, and the next supervisor adopts them; control-group and mixed would kill them.
KillMode=process
# Ends what a supervisor left that failed to stop. After a crash it does nothing: the next supervisor adopts.
ExecStopPost={command} cleanup --after-stop -c {file}
Restart=on-failure
# Exit code 2: the configuration is wrong, and will be at the next try.
RestartPreventExitStatus=2
# Limits for a supervisor that hangs; the first one also limits a reload. One that works asks for more time.
TimeoutStartSec={start:.0f}
TimeoutStopSec={stop:.0f}
# Fed by the supervisor's event loop. If it hangs, it is killed, and the next one adopts.
WatchdogSec=30
{_identity(config, options)}
# The listening sockets are kept here too: should everything die at once, clients wait for the next start instead of
# being refused.
FileDescriptorStoreMax=1024
# Memory and CPU limits of handlers are control groups below the unit's own.
Delegate=yes
# A worker that the kernel kills for want of memory is replaced; the other processes go on.
OOMPolicy=continue
# A connection is a descriptor.
LimitNOFILE=65536

{_gains(config)}
# It makes no setuid files either.
RestrictSUIDSGID=yes
# No change of the execution domain (personality(2)).
LockPersonality=yes
# No real-time priority, with which a process can take the processor from all others.
RestrictRealtime=yes
# No namespaces of its own. Drop this line if jobs are run in containers (Apptainer, bubblewrap).
RestrictNamespaces=yes
# The network, UNIX sockets, and what the C library asks for the addresses of this host.
RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6 AF_NETLINK
# No system calls of a foreign architecture, which are filtered less well.
SystemCallArchitectures=native
# No disks, no memory of the machine. Drop this line if jobs use a GPU.
PrivateDevices=yes
# Settings, modules, log and clock of the kernel, and the name of the host, are not the application's.
ProtectKernelTunables=yes
ProtectKernelModules=yes
ProtectKernelLogs=yes
ProtectClock=yes
ProtectHostname=yes
# /usr, /boot and /etc are read-only. If all places are known that the application writes to, `strict` with
# ReadWritePaths= is better.
ProtectSystem=full
{_home(config, options)}
# Not set: PrivateTmp (each start gets another /tmp, and processes that serve on would lose theirs),
# ProtectControlGroups (see Delegate), MemoryDenyWriteExecute (ctypes and just-in-time compilers need it)."""


def _gains(config: Config) -> str:
    if config.app.no_new_privs:
        why = "# Nothing that the unit starts gains privileges, by setuid programs or file capabilities."
        return f"{why}\nNoNewPrivileges=yes"
    return "# Not set: NoNewPrivileges ([app] no_new_privs = false). With User=, the lines below set it all the same."


def _home(config: Config, options: UnitOptions) -> str:
    used = [options.config, config.app.chdir, *config.app.pythonpath, config.app.env_file, config.app.python]
    used += [Path(options.program[0]), Path(sys.base_prefix), config.log.file]
    paths = [Path(str(item)) for item in used if item]
    homes = [path for path in paths for form in (path, path.resolve()) if form.parts[1:2] in (("home",), ("root",))]
    if homes:
        return f"# Not set: ProtectHome, because {_escaped(str(homes[0]))} is used."
    return "# Nothing that is used here lies in anybody's home.\nProtectHome=yes"


def _identity(config: Config, options: UnitOptions) -> str:
    if not options.user:
        lines = []
        if config.app.user:
            lines = [
                f"# The supervisor is root; what runs application code is {_escaped(config.app.user)} ([app] user)."
            ]
        else:
            lines = ["# Everything runs as root: set [app] user, or make this unit with --user."]
        lines += [
            "# Its state is in /run/instar, where root's command line looks for it; its jobs are in /var/lib/instar.",
            "# What root keeps: become that user, give it its folders, low ports, look after its processes.",
            f"CapabilityBoundingSet={_ROOT_CAPABILITIES}",
        ]
        return "\n".join(lines)
    name = _escaped(config.app.name)
    return f"""User={_escaped(options.user)}
# Locks and epochs of handlers and the journal have to outlive every stop. The command line needs to know the place as
# well: instar status --state-dir /var/lib/{name}
StateDirectory={name}
StateDirectoryMode=0711
Environment=INSTAR_STATE_DIR=/var/lib/{name}
# For the locks of addresses: the user may have no home.
RuntimeDirectory={name}
RuntimeDirectoryPreserve=yes
Environment=XDG_RUNTIME_DIR=/run/{name}
{_capabilities(config)}"""


def _capabilities(config: Config) -> str:
    if any(address.kind == "tcp" and 0 < address.port < 1024 for address in config.web.addresses):
        return (
            "# For the port below 1024, and nothing else; [app] no_new_privs keeps it from the application.\n"
            "AmbientCapabilities=CAP_NET_BIND_SERVICE\nCapabilityBoundingSet=CAP_NET_BIND_SERVICE"
        )
    return "# No process of the unit has any capability.\nCapabilityBoundingSet="


def _escaped(text: str) -> str:
    return text.replace("%", "%%")


def _quoted(word: str) -> str:
    """A word of a command line (systemd.service(5), "Command lines")."""
    word = _escaped(word).replace("$", "$$")
    if any(char.isspace() or char in "\"'\\;" for char in word):
        return '"' + word.replace("\\", "\\\\").replace('"', '\\"') + '"'
    return word
