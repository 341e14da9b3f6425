"""A whole Slurm on this host for the tests: munged, slurmctld and slurmd in the foreground, on ports of their own."""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

#: How to get what is missing.
INSTALL = "apt-get install --no-install-recommends slurm-wlm munge"
_LIMIT = 30.0

_CONF = """\
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
SlurmctldPort={ctld_port}
SlurmdPort={slurmd_port}
CommunicationParameters=NoCtldInAddrAny,NoInAddrAny
AuthType=auth/munge
AuthInfo=socket={root}/munge/socket
CredType=cred/munge
MpiDefault=none
SlurmdParameters=config_overrides
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerType=sched/builtin
SchedulerParameters=sched_min_interval=0,batch_sched_delay=0,sched_interval=1
ReturnToService=2
StateSaveLocation={root}/ctld
SlurmdSpoolDir={root}/slurmd
SlurmctldPidFile={root}/slurmctld.pid
SlurmdPidFile={root}/slurmd.pid
SlurmctldLogFile={root}/slurmctld.log
SlurmdLogFile={root}/slurmd.log
AccountingStorageType=accounting_storage/none
MinJobAge={min_job_age}
KillWait=2
MessageTimeout=5
NodeName={host} NodeAddr=127.0.0.1 CPUs=8 RealMemory=1024 State=UNKNOWN
PartitionName=debug Nodes={host} Default=YES MaxTime=INFINITE State=UP
"""


class NoSlurmError(Exception):
    """Why there can be no Slurm here, and how to get it."""


class Slurm:
    """The daemons; each can be ended and started again."""

    def __init__(self, root: Path, *, min_job_age: int = 300) -> None:
        if os.geteuid() != 0:
            raise NoSlurmError("slurmd needs root")
        if missing := [name for name in ("munged", "slurmctld", "slurmd", "sbatch") if _program(name) is None]:
            raise NoSlurmError(f"no {', '.join(missing)} here ({INSTALL})")
        self.root = root
        self.host = socket.gethostname().partition(".")[0]
        self.conf = root / "slurm.conf"
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        root.chmod(0o755)
        for name in ("ctld", "slurmd", "munge"):
            (root / name).mkdir(mode=0o755)
        munge = pwd.getpwnam("munge")
        os.chown(root / "munge", munge.pw_uid, munge.pw_gid)
        key = root / "munge/key"
        key.write_bytes(os.urandom(1024))
        key.chmod(0o400)
        os.chown(key, munge.pw_uid, munge.pw_gid)
        ports = _free_ports(2)
        self.conf.write_text(
            _CONF.format(host=self.host, root=root, ctld_port=ports[0], slurmd_port=ports[1], min_job_age=min_job_age)
        )
        self.environment = {**os.environ, "SLURM_CONF": str(self.conf)}

    def start(self) -> None:
        """Start all, and wait until the node takes jobs."""
        folder = self.root / "munge"
        files = [f"--{name}={folder}/{name}" for name in ("socket", "pid-file", "log-file", "seed-file")]
        self._spawn("munged", "--foreground", f"--key-file={folder}/key", *files, user="munge")
        _wait("munged", (folder / "socket").exists)
        self.start_controller()
        self._spawn("slurmd", "-D", "-f", str(self.conf))
        _wait("the node", lambda: "idle" in self.run("sinfo", "-h", "-o", "%t"))

    def start_controller(self) -> None:
        """Start slurmctld."""
        self._spawn("slurmctld", "-D", "-f", str(self.conf))
        _wait("the controller", lambda: "is UP" in self.run("scontrol", "ping"))

    def end_controller(self) -> None:
        """Stop slurmctld. Killed, it would give numbers of its last jobs away again, and cancel who gets them."""
        process = self._running.pop("slurmctld")
        process.terminate()
        process.wait(_LIMIT)

    def run(self, *argv: str) -> str:
        """What a command prints; nothing when it fails."""
        done = subprocess.run(argv, env=self.environment, capture_output=True, text=True, timeout=_LIMIT)
        return done.stdout if done.returncode == 0 else ""

    @staticmethod
    def program(name: str) -> str:
        """Path of a command."""
        found = _program(name)
        assert found is not None, name
        return found

    def jobs(self) -> dict[str, str]:
        """States of all jobs that the controller remembers, by name."""
        lines = self.run("squeue", "-h", "-t", "all", "-o", "%j %T").splitlines()
        return dict(line.split(" ", 1) for line in lines)

    def stop(self) -> None:
        """End all jobs and daemons."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.run("scancel", "--user=root")
            with contextlib.suppress(AssertionError):
                _wait("the end of all jobs", lambda: not self.run("squeue", "-h"))
        for name in ("slurmd", "slurmctld", "munged"):
            if process := self._running.pop(name, None):
                process.terminate()
                try:
                    process.wait(_LIMIT)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()

    def _spawn(self, name: str, *argv: str, user: str | None = None) -> None:
        with (self.root / f"{name}.out").open("ab") as output:
            self._running[name] = subprocess.Popen(
                [str(_program(name)), *argv],
                stdin=subprocess.DEVNULL,
                stdout=output if user is None else subprocess.DEVNULL,
                stderr=output if user is None else subprocess.DEVNULL,
                env=self.environment,
                user=user,
                group=user,
                extra_groups=None if user is None else [],
                start_new_session=True,
            )


@contextlib.contextmanager
def slurm(**settings: int) -> Iterator[Slurm]:
    """A running Slurm; skips the test where there can be none."""
    # Not in pytest's folder: munged runs as another user, who can't go there.
    with tempfile.TemporaryDirectory(prefix="instar-slurm-") as root:
        node = Slurm(Path(root), **settings)
        try:
            try:
                node.start()
            except NoSlurmError as error:
                pytest.skip(str(error))
            yield node
        finally:
            node.stop()


def _program(name: str) -> str | None:
    return shutil.which(name) or shutil.which(name, path="/usr/sbin:/sbin")


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [sock.getsockname()[1] for sock in sockets]


def _wait(what: str, check: Callable[[], object]) -> None:
    end = time.monotonic() + _LIMIT
    while not check():
        assert time.monotonic() < end, f"not within {_LIMIT} s: {what}"
        time.sleep(0.05)
