"""Root with `[app] user`: what another local user, and a worker that was taken over, can and can't reach."""

from __future__ import annotations

import json
import os
import pwd
import subprocess
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from harness.instance import Instance
from harness.project import Project
from harness.users import interpreter_for

import instar

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can change the user: run the tests as root")

SECRET = "hunter2-is-not-a-password"

#: Tries everything and prints what worked. Arguments: the state directory, the processes, and all that is known of
#: paths (a second user could guess them).
ATTACK = r"""
import json, os, socket, sys

state, pids, paths = sys.argv[1], json.loads(sys.argv[2]), json.loads(sys.argv[3])
worked = []

def attempt(name, act):
    try:
        act()
    except OSError:
        return
    worked.append(name)

def connect(path, kind):
    with socket.socket(socket.AF_UNIX, kind) as sock:
        sock.connect(path)

def take(pid):
    # Another process's descriptor, by pidfd_getfd(2): 438 on every architecture.
    import ctypes
    libc = ctypes.CDLL(None, use_errno=True)
    pidfd = os.pidfd_open(pid)
    for fd in range(3, 40):
        if libc.syscall(438, pidfd, fd, 0) >= 0:
            return
    raise OSError("none")

for path in [state, *paths]:
    attempt(f"list {path}", lambda: os.listdir(path))
    attempt(f"read {path}", lambda: open(path, "rb").close())
    attempt(f"append to {path}", lambda: open(path, "ab").close())
    attempt(f"make something in {path}", lambda: open(path + "/planted", "x").close())
    attempt(f"remove {path}", lambda: os.rename(path, path + ".gone"))
    for kind in (socket.SOCK_STREAM, socket.SOCK_SEQPACKET):
        attempt(f"connect to {path}", lambda: connect(path, kind))
for pid in pids:
    attempt(f"list descriptors of {pid}", lambda: os.listdir(f"/proc/{pid}/fd"))
    attempt(f"environment of {pid}", lambda: open(f"/proc/{pid}/environ", "rb").read())
    attempt(f"memory of {pid}", lambda: open(f"/proc/{pid}/mem", "r+b").close())
    attempt(f"signal {pid}", lambda: os.kill(pid, 0))
    attempt(f"descriptor of {pid}", lambda: take(pid))
print(json.dumps(worked))
"""

#: An application that runs what it is sent.
TAKEN_OVER = """
import io, contextlib, os, sys
def app(environ, start):
    start('200 OK', [])
    if environ['PATH_INFO'] != '/attack':
        return [b'ok']
    sys.argv = ['attack', *environ['wsgi.input'].read(int(environ['CONTENT_LENGTH'])).decode().split('\\x00')]
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        exec(sys.argv.pop(), {})
    return [said.getvalue().encode()]
"""


@pytest.fixture
def served(instance: Instance, project: Project, folder: Path) -> Instance:
    """With workers, a handler, the launcher of jobs and a service, all of the user `daemon`."""
    user = pwd.getpwnam("daemon")
    folder.chmod(0o755)
    (folder / "current" / "taken.py").write_text(TAKEN_OVER)
    (folder / "secrets.env").write_text(f"PASSWORD={SECRET}\n")
    (folder / "secrets.env").chmod(0o600)
    project.config["app"] |= {"user": "daemon", "target": "taken:app", "env_file": str(folder / "secrets.env")}
    project.config["app"]["deploy_group"] = "games"
    project.config["app"] |= interpreter_for(user)
    project.config["health"]["path"] = "/"
    project.config["handlers"] = {"runners": {"count": 1}}
    project.config["jobs"] = {"pool": "runners"}
    project.config["services"] = {"sleeper": {"command": ["/bin/sleep", "3600"]}}
    return instance.start()


def paths_of(instance: Instance) -> list[str]:
    return [str(path) for path in instance.state_dir.rglob("*")]


def pids_of(instance: Instance) -> list[int]:
    return [process.pid for process in instance.processes()]


def test_another_user(served: Instance) -> None:
    nobody, paths = pwd.getpwnam("nobody"), json.dumps(paths_of(served))
    said = subprocess.run(
        ["/usr/bin/python3", "-I", "-S", "-c", ATTACK, str(served.state_dir), json.dumps(pids_of(served)), paths],
        user=nobody.pw_uid,
        group=nobody.pw_gid,
        extra_groups=[],
        cwd="/",
        env={},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert said.returncode == 0, said.stderr
    # instar's own code, which everybody has.
    releases = f"{served.state_dir}/releases"
    allowed = (f"list {releases}", f"read {releases}")
    assert [what for what in json.loads(said.stdout) if not what.startswith(allowed)] == []


def test_a_worker_that_was_taken_over(served: Instance, project: Project) -> None:
    """It is the application's user: the rest of the application is its own, the supervisor isn't."""
    control = [str(served.state_dir / name) for name in ("control", "log")]
    paths = [path for path in paths_of(served) if path.startswith(tuple(control))]
    assert f"{control[0]}/control.sock" in paths
    body = "\0".join([str(served.state_dir), json.dumps([served.pid]), json.dumps(paths), ATTACK])
    with urllib.request.urlopen(f"http://127.0.0.1:{project.port}/attack", body.encode(), timeout=60) as answer:
        assert json.loads(answer.read()) == []
    # It has planted links where the supervisor writes: a restart goes on or is refused, and nothing is led elsewhere.
    victim = served.project.root / "victim"
    victim.write_text("root's own\n")
    for name in ("hooks.out", "sleeper.out", "launcher.out"):
        path = served.state_dir / "app" / "output" / "services" / name
        path.unlink(missing_ok=True)
        path.symlink_to(victim)
    assert served.command("restart").code == 0
    assert victim.read_text() == "root's own\n"
    assert victim.stat().st_uid == 0


def test_secrets_are_shown_nowhere(served: Instance, project: Project) -> None:
    assert served.command("restart").code == 0
    for verb in (
        ["status"],
        ["status", "--json"],
        ["history"],
        ["history", "--json"],
        ["logs", "-n", "1000"],
        ["check"],
    ):
        said = served.command(*verb)
        assert SECRET not in said.out + said.err, verb
    for pid in pids_of(served):
        for name in ("cmdline", "comm"):
            assert SECRET not in Path(f"/proc/{pid}/{name}").read_text(errors="replace"), (pid, name)
    holding = [path for path in files_of(served.state_dir) if SECRET.encode() in path.read_bytes()]
    assert not holding
    assert SECRET not in project.root.joinpath("instar.out").read_text()


def test_the_deploy_group(served: Instance, project: Project) -> None:
    """In the group, the command line finds the socket and is obeyed; not in it, there is no supervisor to be seen."""
    app = interpreter_for(pwd.getpwnam("nobody"))
    path = os.pathsep.join([str(Path(instar.__file__).parents[1]), *app["pythonpath"]])
    env = {"PYTHONPATH": path, "INSTAR_STATE_DIR": str(served.state_dir), "HOME": "/"}
    run = [str(app["python"]), "-c", "import sys; from instar.cli import main; sys.exit(main())"]

    def code_of(verb: str, group: Any, *groups: str) -> int:
        argv = [*run, verb, "--json", "-c", str(project.config_file)]
        who: dict[str, Any] = {"user": "nobody", "group": group, "extra_groups": groups}
        return subprocess.run(argv, env=env, cwd="/", capture_output=True, timeout=120, **who).returncode

    assert code_of("status", 60000) == 5
    assert code_of("stop", 60000) == 5
    assert code_of("status", "games") == 0
    assert code_of("restart", 60000, "games") == 0
    assert served.status()["web"]["live_generation"] == 2
    door = served.state_dir / "deploy" / "control.sock"
    assert (door.stat().st_mode & 0o777, door.parent.stat().st_mode & 0o777) == (0o660, 0o710)


def files_of(folder: Path) -> list[Any]:
    return [path for path in folder.rglob("*") if path.is_file() and not path.is_symlink()]
