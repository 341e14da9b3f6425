from __future__ import annotations

import contextlib
import datetime
import os
import select
import socket
import stat
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import trustme

Instar = Callable[..., Any]
GOOD = "def app(environ, start_response):\n    return []\n"


@pytest.fixture
def port() -> Iterator[int]:
    """A port that was free a moment ago."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        number: int = sock.getsockname()[1]
    yield number


@pytest.fixture
def site(project: Path, port: int) -> Callable[..., Path]:
    """Write an application and its configuration; `app` and `rest` are lines for the file."""

    def write(source: str = GOOD, *, app: str = "", rest: str = "", bind: str = f"127.0.0.1:{port}") -> Path:
        (project / "site1.py").write_text(source)
        web = f'[web]\nbind = ["{bind}"]\n'
        (project / "instar.toml").write_text(f'[app]\ntarget = "site1:app"\n{app}\n{web}{rest}\n')
        return project

    return write


def found(answer: Any, level: str) -> list[str]:
    """The findings of a level, as `subject: text`, without the warning about root."""
    items = [f"{item['subject']}: {item['text']}" for item in answer.json["findings"] if item["level"] == level]
    return [item for item in items if "run as root" not in item]


def test_a_good_one(site: Callable[..., Path], instar: Instar) -> None:
    site(rest="max_memory = '300M'\n[restart.canary]\nshare = 0.1\n[services.s]\ncommand = ['{python}', '-m', 'x']")
    answer = instar("check", "--load", "--json")
    assert answer.code == 0, answer.out
    assert answer.json["ok"]
    assert found(answer, "error") == found(answer, "warning") == []
    assert any(text.startswith("[app] target: loads in ") and text.endswith("WSGI") for text in found(answer, "ok"))
    plan = {item["what"]: item["text"] for item in answer.json["plan"]}
    assert plan["recycle"] == "a worker above 300M of memory"
    assert plan["canary"] == "10% of new connections for 30 s"
    assert plan["service s"] == "{python} -m x"


HANDLERS = """
[handlers.mail]
count = 2
target = "mailer:work"
[handlers.big]
count = 30
command = ["{python}", "-m", "x"]
[handlers.old]
script = "old.py"
"""


def test_handlers_are_listed_and_their_targets_found(site: Callable[..., Path], instar: Instar) -> None:
    folder = site(rest=HANDLERS)
    (folder / "mailer.py").write_text("raise RuntimeError('only imported with --load')\n")
    (folder / "old.py").touch()
    answer = instar("check", "--json")
    assert answer.code == 0, answer.out
    plan = {item["what"]: item["text"] for item in answer.json["plan"]}
    assert plan["handlers mail"] == "main.mail.1, main.mail.2 (warm: mailer:work)"
    assert "main.big.7, …, main.big.30 (cold: {python} -m x)" in plan["handlers big"]
    assert plan["handlers old"] == f"main.old.1 (cold: {folder}/old.py)"
    texts = found(answer, "ok")
    assert "[handlers.mail] target: mailer:work" in texts
    assert f"[handlers.old] script: {folder}/old.py" in texts
    assert "[handlers.big]: {python} -m x" in texts


@pytest.mark.parametrize(
    ("source", "options", "words"),
    [
        (None, [], "[handlers.mail] target: there is no module mailer in "),
        ("raise RuntimeError('hunter2')", ["--load"], "[handlers.mail] target: cannot load it: RuntimeError: ***"),
        ("", ["--load"], "[handlers.mail] target: cannot load it: mailer has no work"),
        ("work = 3", ["--load"], "[handlers.mail] target: cannot run mailer:work: it can't be called (int)"),
    ],
)
def test_targets_of_handlers_that_do_not_load(
    site: Callable[..., Path], instar: Instar, source: str | None, options: list[str], words: str
) -> None:
    folder = site(app='env_file = ".env"', rest='[handlers.mail]\ntarget = "mailer:work"')
    (folder / ".env").write_text("SECRET=hunter2\n")
    if source is not None:
        (folder / "mailer.py").write_text(source + "\n")
    answer = instar("check", "--json", *options)
    assert answer.code == 2
    (text,) = found(answer, "error")
    assert text.startswith(words)


def test_a_handler_that_loads(site: Callable[..., Path], instar: Instar) -> None:
    folder = site(rest='[handlers.mail]\ntarget = "mailer:Work.run"')
    (folder / "mailer.py").write_text("class Work:\n    def run(): pass\n")
    answer = instar("check", "--json", "--load")
    assert answer.code == 0, answer.out
    assert "[handlers.mail] target: mailer:Work.run loads" in found(answer, "ok")


def test_a_handler_that_hangs_at_import_is_shown_where(site: Callable[..., Path], instar: Instar) -> None:
    folder = site(rest='[handlers.mail]\ntarget = "mailer:work"')
    (folder / "mailer.py").write_text("import time\ntime.sleep(60)\n")
    answer = instar("check", "--json", "--load", "--timeout", "1")
    assert answer.code == 2
    (finding,) = [item for item in answer.json["findings"] if item["level"] == "error"]
    assert "did not load within 1 s" in finding["text"]
    assert "mailer.py" in "".join(finding["detail"])


def test_programs_and_scripts_of_handlers_that_are_missing(site: Callable[..., Path], instar: Instar) -> None:
    site(rest='[handlers.x]\ncommand = ["no-such-program"]\n[handlers.y]\nscript = "no.py"')
    errors = found(instar("check", "--json"), "error")
    assert "[handlers.x]: there is no program no-such-program" in errors
    assert any(text.startswith("[handlers.y] script: there is no file ") for text in errors)


def test_a_file_of_instar_by_its_name(site: Callable[..., Path], instar: Instar) -> None:
    folder = site()
    (folder / "instar.toml").rename(folder / "other.toml")
    answer = instar("check", "other.toml", "--json")
    assert (answer.code, answer.json["config"]) == (0, str(folder / "other.toml"))


@pytest.mark.parametrize("handover", ["warm", "cold"])
def test_a_script_that_does_not_compile(site: Callable[..., Path], instar: Instar, handover: str) -> None:
    folder = site(rest=f'[handlers.y]\nscript = "y.py"\nhandover = "{handover}"')
    (folder / "y.py").write_text("import os\ndef f(:\n")
    answer = instar("check", "--json")
    assert answer.code == 2
    (text,) = found(answer, "error")
    assert text.startswith("[handlers.y] script: it is no Python that this interpreter understands: invalid syntax")
    assert text.endswith("(y.py, line 2)")


def test_the_table_for_people(site: Callable[..., Path], instar: Instar, port: int) -> None:
    site()
    answer = instar("check")
    assert answer.code == 0
    assert f"http://127.0.0.1:{port}" in answer.out
    assert "site1:app" in answer.out
    assert "[app] chdir" in answer.out  # not taken for markup
    assert "--load also imports" in answer.out


def test_a_target_without_a_file(project: Path, instar: Instar) -> None:
    (project / "site1.py").write_text(GOOD)
    answer = instar("check", "site1:app", "--load", "--json")
    assert answer.json["config"] is None
    assert not [text for text in found(answer, "error") if not text.startswith("bind ")]


def test_errors_of_the_file(site: Callable[..., Path], instar: Instar) -> None:
    site(rest="wokers = 3\nthreads = 'x'")
    answer = instar("check")
    assert answer.code == 2
    assert answer.err.splitlines() == [
        'instar: cannot read instar.toml: [web] threads must be a whole number, not "x"',
        "cannot read instar.toml: [web] wokers is not a known key; did you mean workers?",
    ]
    as_json = instar("check", "--json")
    assert as_json.code == 2
    assert not as_json.json["ok"]
    assert len(as_json.json["findings"]) == 2


def test_a_missing_module_is_found_without_load(site: Callable[..., Path], instar: Instar) -> None:
    project = site()
    (project / "site1.py").unlink()
    answer = instar("check", "--json")
    assert answer.code == 2
    (text,) = found(answer, "error")
    assert text.startswith("[app] target: there is no module site1 in ")


def test_without_load_nothing_of_the_application_runs(site: Callable[..., Path], instar: Instar) -> None:
    project = site("open('ran', 'w')\n" + GOOD)
    assert instar("check").code == 0
    assert not (project / "ran").exists()
    assert instar("check", "--load").code == 0
    assert (project / "ran").exists()


@pytest.mark.parametrize(
    ("source", "words", "last"),
    [
        ("import nonsense_module\n", "No module named 'nonsense_module'", "ModuleNotFoundError"),
        ("def f():\n    1 / 0\nf()\n", "ZeroDivisionError: division by zero", "ZeroDivisionError"),
        ("app = \n", "SyntaxError: invalid syntax", "SyntaxError"),
        ("import sys\nsys.exit(3)\n", "the application left with exit status 3", "SystemExit: 3"),
    ],
)
def test_the_last_lines_of_a_failed_load(
    site: Callable[..., Path], instar: Instar, source: str, words: str, last: str
) -> None:
    site(source)
    answer = instar("check", "--load", "--json")
    assert answer.code == 2
    (item,) = [item for item in answer.json["findings"] if item["level"] == "error"]
    assert words in item["text"]
    assert item["detail"][-1].startswith(last)
    assert "importlib" not in "".join(item["detail"])
    assert "_dryload" not in "".join(item["detail"])
    if last != "SystemExit: 3":
        assert "site1.py" in "".join(item["detail"])


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("other = 1\n", "[app] target: cannot find 'app' in site1"),
        ("app = 1\n", "[app] target: cannot serve site1:app: it is not callable (int)"),
        ("import os\nos._exit(9)\n", "ended with status 9 while it loaded"),
        ("import os\nos.abort()\n", "ended with signal SIGABRT while it loaded"),
    ],
)
def test_other_ways_to_fail(site: Callable[..., Path], instar: Instar, source: str, words: str) -> None:
    site(source)
    (text,) = found(instar("check", "--load", "--json"), "error")
    assert words in text


def test_a_hanging_load_is_ended_and_shows_where(site: Callable[..., Path], instar: Instar) -> None:
    project = site(
        "import os, subprocess, threading\n"
        "child = subprocess.Popen(['sleep', '600'])\n"
        "open('pids', 'w').write(f'{os.getpid()} {child.pid}')\n"
        "def stuck_here():\n    threading.Event().wait()\nstuck_here()\n"
    )
    answer = instar("check", "--load", "--timeout", "1", "--json")
    assert answer.code == 2
    (item,) = [item for item in answer.json["findings"] if item["level"] == "error"]
    assert item["text"].startswith("did not load within 1 s")
    assert any("in stuck_here" in line for line in item["detail"])
    for pid in (project / "pids").read_text().split():
        _wait_until_gone(int(pid))


def _wait_until_gone(pid: int) -> None:
    """Returns when a process has ended (its end is not instant after SIGKILL; nobody may have reaped it yet)."""
    with contextlib.suppress(ProcessLookupError):
        pidfd = os.pidfd_open(pid)
        try:
            assert select.select([pidfd], [], [], 10)[0], f"process {pid} lives on"
        finally:
            os.close(pidfd)


@pytest.mark.parametrize("mode", [[], ["--json"], ["--load"], ["--load", "--json"]])
def test_secrets_are_not_shown(site: Callable[..., Path], instar: Instar, mode: list[str]) -> None:
    project = site(
        "import os, sys\nprint(os.environ['PW'])\nraise ValueError(dict(os.environ)['PW'], repr(os.environ['KEY']))\n",
        app="env_file = '.env'",
    )
    (project / ".env").write_text('PW=hunter2\'x\nKEY="first line\n second line"\n')
    answer = instar("check", *mode)
    assert answer.code == (2 if "--load" in mode else 0)
    for secret in ("hunter2", "first line", "second line"):
        assert secret not in answer.out + answer.err
    assert "PW" in answer.out


def test_the_application_gets_its_environment(site: Callable[..., Path], instar: Instar) -> None:
    project = site(
        "import os, helper\nassert os.environ['A'] + os.environ['B'] == 'file1', os.environ\n" + GOOD,
        app="env_file = '.env'\nenv = {B = 1}\npythonpath = ['lib']",
    )
    (project / ".env").write_text("A=file\nB=2\n")
    (project / "lib").mkdir()
    (project / "lib/helper.py").touch()
    answer = instar("check", "--load")
    assert answer.code == 0, answer.out


def test_a_port_in_use(site: Callable[..., Path], instar: Instar) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        site(bind=f"127.0.0.1:{server.getsockname()[1]}")
        (text,) = found(instar("check", "--json"), "error")
    assert "another program listens there" in text


def test_ports_of_our_own_supervisor_are_not_tried(site: Callable[..., Path], instar: Instar) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, socket.socket(socket.AF_UNIX) as control:
        project = site(bind=f"127.0.0.1:{server.getsockname()[1]}")
        (project.parent / "state/control").mkdir(parents=True)
        control.bind(str(project.parent / "state/control/control.sock"))
        dead = instar("check", "--json")
        control.listen()
        live = instar("check", "--json")
    assert dead.code == 2
    assert live.code == 0
    (text,) = found(live, "skipped")
    assert '"main" is running' in text


@pytest.mark.parametrize(
    ("bind", "words"),
    [
        ("203.0.113.7:80", "no network interface of this host has the address 203.0.113.7"),
        ("unix:nowhere/a.sock", "there is no folder"),
        ("unix:site1.py", "exists and is not a socket"),
    ],
)
def test_addresses_that_cannot_be_bound(site: Callable[..., Path], instar: Instar, bind: str, words: str) -> None:
    site(bind=bind)
    (text,) = found(instar("check", "--json"), "error")
    assert words in text


@pytest.mark.parametrize("problem", [socket.gaierror("unknown"), UnicodeError("label too long")])
def test_an_unknown_host(
    site: Callable[..., Path], instar: Instar, monkeypatch: pytest.MonkeyPatch, problem: Exception
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise problem

    monkeypatch.setattr("instar.cli._check_ports.socket.getaddrinfo", fail)
    site(bind="no-such-host:80")
    (text,) = found(instar("check", "--json"), "error")
    assert "cannot find the host no-such-host" in text


def test_unix_sockets(site: Callable[..., Path], instar: Instar) -> None:
    project = site(bind="unix:web.sock")
    assert instar("check").code == 0
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("web.sock")
        assert instar("check").code == 0  # left behind by a dead server
        server.listen()
        (text,) = found(instar("check", "--json"), "error")
    assert "another program listens there" in text
    site(bind="unix:" + "x" * 120)
    (text,) = found(instar("check", "--json"), "warning")
    assert "longer than 107 bytes" in text
    assert project.joinpath("web.sock").exists()


def test_missing_files(site: Callable[..., Path], instar: Instar) -> None:
    site(
        app="pythonpath = ['lib']\nenv_file = '.env'\nuser = 'no-such-user'",
        rest="static = {'/s' = 'pub'}\ntls_cert = 'c'\ntls_key = 'k'\n[log]\nfile = 'no/x.log'\n"
        "[services.x]\ncommand = ['x']\nchdir = 'svc'",
    )
    subjects = [text.partition(":")[0] for text in found(instar("check", "--json"), "error")]
    assert subjects == [
        "[app] pythonpath",
        "[web.static] /s",
        "[services.x] chdir",
        "[app] env_file",
        "[web] tls_cert",
        "[app] user",
        "[log] file",
    ]


def test_a_missing_folder_stops_the_rest(site: Callable[..., Path], instar: Instar) -> None:
    site(app="chdir = 'gone'")
    (text,) = found(instar("check", "--load", "--json"), "error")
    assert text.startswith("[app] chdir: there is no folder")


def test_programs_of_hooks_and_services(site: Callable[..., Path], instar: Instar) -> None:
    site(
        rest="[restart]\nbefore = [['{python}', 'x'], ['no-such-program'], ['./run.sh']]\n"
        "[services.x]\ncommand = ['/no/such/program']"
    )
    errors = found(instar("check", "--json"), "error")
    assert errors == [
        "[restart] before: there is no program no-such-program",
        "[restart] before: there is no program ./run.sh",
        "[services.x]: there is no program /no/such/program",
    ]


def test_certificates(site: Callable[..., Path], instar: Instar) -> None:
    project = site(rest="tls_cert = 'c.pem'\ntls_key = 'k.pem'")
    authority = trustme.CA()
    one, two = authority.issue_cert("localhost"), authority.issue_cert("localhost")
    one.cert_chain_pems[0].write_to_path(project / "c.pem")
    one.private_key_pem.write_to_path(project / "k.pem")
    assert instar("check").code == 0
    two.private_key_pem.write_to_path(project / "k.pem")
    (text,) = found(instar("check", "--json"), "error")
    assert "the key belongs to another certificate" in text
    (project / "c.pem").write_text("nothing")
    (text,) = found(instar("check", "--json"), "error")
    assert "cannot use" in text


def test_a_key_with_a_password_does_not_ask_for_it(
    site: Callable[..., Path], instar: Instar, monkeypatch: pytest.MonkeyPatch
) -> None:
    from cryptography.hazmat.primitives import serialization

    project = site(rest="tls_cert = 'c.pem'\ntls_key = 'k.pem'\ntls_key_password_env = 'KEY_PW'")
    issued = trustme.CA().issue_cert("localhost", not_after=datetime.datetime(2100, 1, 1, tzinfo=datetime.UTC))
    issued.cert_chain_pems[0].write_to_path(project / "c.pem")
    key = serialization.load_pem_private_key(issued.private_key_pem.bytes(), None)
    (project / "k.pem").write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"hunter2"),
        )
    )
    (text,) = found(instar("check", "--json"), "error")
    assert "no variable KEY_PW" in text
    monkeypatch.setenv("KEY_PW", "wrong")
    assert len(found(instar("check", "--json"), "error")) == 1
    monkeypatch.setenv("KEY_PW", "hunter2")
    answer = instar("check", "--json")
    assert answer.code == 0
    assert "hunter2" not in answer.out


def test_an_environment_without_the_engine(site: Callable[..., Path], instar: Instar) -> None:
    project = site()
    # An interpreter that sees no installed packages at all.
    python = project / "python"
    python.write_text(f'#!/bin/sh\nexec "{os.path.realpath(sys.executable)}" -S "$@"\n')
    python.chmod(python.stat().st_mode | stat.S_IXUSR)
    site(app='python = "./python"')
    (text,) = found(instar("check", "--json"), "error")
    assert text.startswith("[web] engine: cannot run granian: the application's environment does not have it")


def test_something_that_is_no_python(site: Callable[..., Path], instar: Instar) -> None:
    project = site(app="python = './python'")
    (project / "python").write_bytes(b"\x7fELF nonsense")
    (project / "python").chmod(0o755)
    (text,) = found(instar("check", "--json"), "error")
    assert text.startswith("[app] python: cannot run")


def test_threads_at_import_are_told(site: Callable[..., Path], instar: Instar) -> None:
    site("import threading, time\nthreading.Thread(target=time.sleep, args=(600,), name='poller').start()\n" + GOOD)
    answer = instar("check", "--load", "--json")
    assert answer.code == 0
    (text,) = found(answer, "warning")
    assert "poller" in text


def test_schema(project: Path, instar: Instar) -> None:
    answer = instar("check", "--schema")
    assert answer.code == 0
    assert answer.json["title"] == "instar.toml"
