"""`import uwsgi` and mules: one application under the real uWSGI and under instar, asked the same things."""

from __future__ import annotations

import shutil
import signal
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from harness.uwsgi import Server
from harness.waiting import wait_for

from oracle.uwsgi import needs_uwsgi

MULES = Path(__file__).parents[2] / "apps/mules"
OPTIONS = [
    "--module", "apps.uwsgi_app", "--processes", "1", "--threads", "2", "--locks", "1", "--buffer-size", "16384",
    "--mule=" + str(MULES / "answering.py"),
    "--mule=" + str(MULES / "ending.py"),
    "--mule=" + str(MULES / "own_signals.py"),
    "--mule=apps.mules.functions:work",
    "--mules", "1",
    "--farm", "first:1,5", "--farm", "second:4,1", "--set-ph", "x=y",
]  # fmt: skip
#: Numbers of the mules above.
ANSWERING, ENDING, OWN_SIGNALS, FUNCTION, IDLE = range(1, 6)

ANYWHERE = [
    "uwsgi.version, uwsgi.version_info, uwsgi.hostname, uwsgi.numproc, uwsgi.cores, uwsgi.has_threads, uwsgi.loop",
    "uwsgi.buffer_size, uwsgi.applications, uwsgi.is_a_reload, uwsgi.unbit, type(uwsgi.started_on), uwsgi.__name__",
    "uwsgi.worker_id(), uwsgi.mule_id()",
    "uwsgi.in_farm(), uwsgi.in_farm('first'), uwsgi.in_farm('second'), uwsgi.in_farm('nosuch')",
    "app.AT_IMPORT",
    "uwsgi.masterpid() > 1",
    "sorted(uwsgi.opt)",
    "uwsgi.opt['threads'], uwsgi.opt['module'], uwsgi.opt['master']",
    "sorted(uwsgi.workers()[0]), len(uwsgi.workers()), type(uwsgi.workers())",
    "[(key, type(value)) for key, value in sorted(uwsgi.workers()[0].items())]",
    "sorted(uwsgi.workers()[0]['apps'][0]), uwsgi.workers()[0]['id']",
    "[uwsgi.lock(), uwsgi.is_locked(1), uwsgi.unlock(), uwsgi.is_locked(), uwsgi.lock(1), uwsgi.unlock(1)]",
    "uwsgi.lock(2)", "uwsgi.is_locked(-1)", "uwsgi.unlock(2)", "uwsgi.lock('0')",
    "uwsgi.mule_msg('x', 'first')", "uwsgi.mule_msg('x', b'nosuch')", "uwsgi.mule_msg('x', None)",
    "uwsgi.farm_msg('nosuch', 'x')",
    "uwsgi.log('a line')", "uwsgi.log(b'bytes')", "uwsgi.i_am_the_spooler()", "uwsgi.i_am_the_lord('x')",
    "uwsgi.set_user_harakiri(0)", "uwsgi.setprocname('renamed')", "uwsgi.set_logvar('a', 'b')",
    "[type(x) for x in uwsgi.mem()], uwsgi.mem()[0] > 1 << 20",
    "type(uwsgi.micros()), type(uwsgi.total_requests())",
    "hasattr(uwsgi, 'spool'), hasattr(uwsgi, 'send_to_spooler'), hasattr(uwsgi, 'queue_get')",
]  # fmt: skip
IN_A_WORKER = [
    *ANYWHERE,
    "uwsgi.workers()[0]['status'], uwsgi.workers()[0]['pid'] == os.getpid()",
    "uwsgi.mule_get_msg()", "uwsgi.farm_get_msg()", "uwsgi.ready()", "uwsgi.accepting()",
    "type(uwsgi.request_id())", "len(uwsgi.sockets), type(uwsgi.sockets[0])",
]  # fmt: skip
IN_A_MULE = [
    *ANYWHERE,
    "[uwsgi.mule_msg(b'bytes', 1), uwsgi.mule_get_msg()]",
    "[uwsgi.mule_msg('text', 1), uwsgi.mule_get_msg(True, True, 2)]",
    "[uwsgi.mule_msg('', 1), uwsgi.mule_get_msg()]",
    "[uwsgi.mule_msg('farm', b'second'), uwsgi.farm_get_msg()]",
    "[uwsgi.farm_msg('second', 'farm'), uwsgi.mule_get_msg(farms=False, timeout=1), uwsgi.mule_get_msg()]",
    "uwsgi.mule_get_msg(timeout=0)",
    "sys.modules['__main__'].__name__, os.path.basename(sys.modules['__main__'].__file__)",
]

pytestmark = needs_uwsgi


@pytest.fixture(scope="module")
def servers() -> Iterator[Callable[..., Server]]:
    """Starts servers; nothing of them is left at the end."""
    folder = Path(tempfile.mkdtemp(prefix="instar-"))
    made: list[Server] = []

    def start(name: str, options: list[str], *, real: bool) -> Server:
        made.append(Server(folder / f"{name}.{'real' if real else 'ours'}", options, real=real))
        return made[-1]

    yield start
    for server in made:
        server.clean_up()
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def both(servers: Callable[..., Server]) -> tuple[Server, Server]:
    """The real one and ours, with mules of each kind."""
    pair = servers("mules", OPTIONS, real=True), servers("mules", OPTIONS, real=False)
    for server in pair:
        server.wait_until_it_serves()
        for event in ("__main__", "handles SIGHUP", "work in", f"mule {IDLE}: post_fork_hook"):
            server.wait_for_event(event)
    return pair


def differences(expressions: list[str], ask: Callable[[Server, str], str], both: tuple[Server, Server]) -> list[object]:
    """Expressions with two different answers."""
    answers = [(text, ask(both[0], text), ask(both[1], text)) for text in expressions]
    return [item for item in answers if item[1] != item[2]]


def test_a_worker_sees_what_it_sees_under_uwsgi(both: tuple[Server, Server]) -> None:
    assert not differences(IN_A_WORKER, Server.evaluate, both)


@pytest.mark.parametrize("number", [ANSWERING, IDLE])
def test_a_mule_too(both: tuple[Server, Server], number: int) -> None:
    expressions = IN_A_MULE if number == ANSWERING else ANYWHERE
    assert not differences(expressions, lambda server, text: server.evaluate_in_mule(number, text), both)


def test_options_that_are_repeated_are_lists_here(both: tuple[Server, Server]) -> None:
    """The documentation of uWSGI says so too; on Python 3 only its last value is left."""
    real, ours = both
    assert real.evaluate("uwsgi.opt['farm']") == "b'second:4,1'"
    assert ours.evaluate("uwsgi.opt['farm']") == "[b'first:1,5', b'second:4,1']"


def test_what_only_uwsgi_has(both: tuple[Server, Server]) -> None:
    ours = both[1]
    assert ours.evaluate("'uwsgidecorators' in sys.modules, hasattr(uwsgi, 'cache_get')") == "(False, False)"
    assert "cannot use uwsgi.cache_get under instar" in ours.evaluate("uwsgi.cache_get('x')")


def test_locks_hold_between_worker_and_mule(both: tuple[Server, Server]) -> None:
    for server in both:
        assert server.evaluate_in_mule(ANSWERING, "uwsgi.lock(0)") == "None"
        assert server.evaluate("uwsgi.is_locked(0), uwsgi.is_locked(1)") == "(True, False)"
        assert server.evaluate_in_mule(IDLE, "uwsgi.is_locked(0)") == "True"
        assert server.evaluate_in_mule(ANSWERING, "uwsgi.unlock(0)") == "None"
        assert server.evaluate("uwsgi.is_locked(0)") == "False"


def test_a_script_that_ends_is_started_again(both: tuple[Server, Server]) -> None:
    for server in both:
        server.wait_for_event("turn 3")
    real, ours = (server.events(f"mule {ENDING}:") for server in both)
    # After sys.exit() of the script uWSGI has no interpreter left for its own hook.
    before, after = real.index(f"worker 0 mule {ENDING}: turn 2") + 1, f"worker 0 mule {ENDING}: uwsgi.atexit"
    assert ours == [*real[:before], after, *real[before:]]


def test_what_happens_in_each_process_and_when(both: tuple[Server, Server]) -> None:
    real, ours = (
        [server.events(who) for who in ("worker 0 mule 0", "worker 1", "mule 1", "mule 4")] for server in both
    )
    assert ours == real


def test_signals(both: tuple[Server, Server]) -> None:
    """SIGHUP, which both send to a mule that is to leave: a script's own handler decides, else it ends at once."""
    ready = {OWN_SIGNALS: "handles SIGHUP", ANSWERING: "__main__"}
    for server in both:
        for number, event in ready.items():
            before = len(server.events(event))
            server.evaluate(f"os.kill({mule_pid(server, number)}, {int(signal.SIGHUP)})")
            server.wait_for_event(event, before + 1)
    for number in (OWN_SIGNALS, ANSWERING):
        real, ours = (server.events(f"mule {number}:") for server in both)
        # After sys.exit() of the script uWSGI has no interpreter left for its own hook.
        assert [line for line in ours if "uwsgi.atexit" not in line or number == ANSWERING] == real


def mule_pid(server: Server, number: int) -> int:
    """The pid of a mule, which it writes down after its fork."""
    path = server.folder / f"events.pid.0.{number}"
    wait_for(f"mule {number} has a pid", lambda: path.exists() and path.read_text())
    return int(path.read_text())
