"""Scripts in a handler's own process: what they see and how they end, compared with `python SCRIPT`."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from instar.runtime import script
from instar.runtime.loader import LoadError
from instar.runtime.spec import HandlerSpec

#: A handler that has its name, and is asked to leave when its standard input ends.
HANDLER = """
import os, sys, threading
from instar.runtime import script
from instar.runtime.spec import HandlerSpec
from instar.runtime.worker import leave
from instar.testing import fake_handler

path = sys.argv[1]
script.prepare([HandlerSpec("a.b.1", "b", 1, script=path)])
with fake_handler() as fake:
    fake.activate()
    if "asked" in sys.argv:
        threading.Thread(target=lambda: (sys.stdin.read(), fake.release()), daemon=True).start()
    try:
        status = script.run(path)
    except BaseException as error:
        print(type(error).__name__, error, file=sys.stderr)
        status = 1
    leave(status)
"""
WAIT = "import sys, threading\nprint('here', flush=True)\nthreading.Event().wait()\n"


def handler(path: Path, *options: str, **more) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-P", "-c", HANDLER, str(path), *options]
    return subprocess.run(command, capture_output=True, text=True, timeout=30, check=False, **more)


def python(path: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, path], capture_output=True, text=True, timeout=30, check=False)


SEEN = """
import os, signal, sys, typing, __main__
class Class: pass
def function(x: Class) -> None: ...
print(__name__, __file__, sys.argv, sys.path[0], __spec__, __package__, __doc__, __cached__)
print(type(__builtins__).__name__, type(__loader__).__name__, __loader__.path, __main__.Class is Class)
print(Class.__module__, function.__annotations__, sys.modules["__main__"].__dict__ is globals())
print(signal.getsignal(signal.SIGINT) is signal.default_int_handler)
import neighbour
"""


def test_it_sees_what_python_shows_to_a_script(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "real/neighbour.py").write_text("print('imported', __name__)")
    (tmp_path / "real/seen.py").write_text(SEEN)
    (tmp_path / "link.py").symlink_to("real/seen.py")
    for path in (tmp_path / "real/seen.py", tmp_path / "link.py"):
        ours, theirs = handler(path), python(path)
        assert theirs.returncode == 0, theirs.stderr
        assert (ours.stdout, ours.returncode) == (theirs.stdout, 0), ours.stderr


ENDINGS = {
    "nothing": "",
    "exit": "import sys; sys.exit()",
    "number": "import sys; sys.exit(7)",
    "true": "import sys; sys.exit(True)",
    "large": "import sys; sys.exit(256 + 9)",
    "text": "import sys; sys.exit('no more work')",
    "thread": "import threading, time\n"
    "threading.Thread(target=lambda: (time.sleep(0.2), print('done', flush=True))).start()",
    "executor": "from concurrent.futures import ThreadPoolExecutor as E\nE(2).submit(print, 'done', flush=True)",
    "exit and thread": "import sys, threading, time\n"
    "threading.Thread(target=lambda: (time.sleep(0.2), print('done', flush=True))).start()\nsys.exit(3)",
    "atexit": "import atexit\natexit.register(print, 'bye')",
    "pickle": "import pickle\nclass A: pass\nprint(type(pickle.loads(pickle.dumps(A()))) is A)",
    "coding": b"# coding: latin-1\nprint(ascii('\xe9'))",
}


@pytest.mark.parametrize("source", ENDINGS.values(), ids=ENDINGS)
def test_it_ends_as_under_python(tmp_path: Path, source: str | bytes) -> None:
    path = tmp_path / "work.py"
    path.write_bytes(source if isinstance(source, bytes) else source.encode())
    ours, theirs = handler(path), python(path)
    assert (ours.returncode, ours.stdout, ours.stderr) == (theirs.returncode, theirs.stdout, theirs.stderr)


def test_its_error_comes_through(tmp_path: Path) -> None:
    path = tmp_path / "work.py"
    path.write_text("1 / 0")
    ours = handler(path)
    assert (ours.returncode, ours.stderr) == (1, "ZeroDivisionError division by zero\n")


@pytest.mark.parametrize(
    ("source", "status", "words"),
    [
        (WAIT, 143, ["here"]),
        (f"import atexit\natexit.register(print, 'bye')\ntry:\n  exec({WAIT!r})\nfinally: print('no')", 143, ["bye"]),
        (
            f"import signal, sys\nsignal.signal(15, lambda *_: sys.exit(9))\ntry:\n  exec({WAIT!r})\nfinally: print(1)",
            9,
            ["1"],
        ),
        # Nothing that Python could interrupt: a handler would run when it is over.
        ("import hashlib\nprint('here', flush=True)\nhashlib.pbkdf2_hmac('sha256', b'', b'', 10**9)", 143, []),
    ],
    ids=["at once", "exit handlers", "a handler of its own", "in a C function"],
)
def test_it_is_asked_to_leave_by_sigterm(tmp_path: Path, source: str, status: int, words: list[str]) -> None:
    path = tmp_path / "work.py"
    path.write_text(source)
    command = [sys.executable, "-P", "-c", HANDLER, str(path), "asked"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None and process.stdout.readline() == "here\n"
            out, _ = process.communicate("", timeout=20)
        finally:
            process.kill()
    assert process.returncode == status
    assert out.split() == [word for word in words if word != "here"]


def test_a_forked_child_ends_by_the_signal_itself(tmp_path: Path) -> None:
    path = tmp_path / "work.py"
    path.write_text(
        "import atexit, multiprocessing, time\n"
        "atexit.register(print, 'bye', flush=True)\n"
        "child = multiprocessing.get_context('fork').Process(target=time.sleep, args=(60,))\n"
        "child.start()\nchild.terminate()\nchild.join()\nprint(child.exitcode, flush=True)\n"
    )
    assert handler(path).stdout == f"-{int(signal.SIGTERM)}\nbye\n"


def test_the_code_is_that_of_the_boot(tmp_path: Path) -> None:
    path = tmp_path / "work.py"
    path.write_text(
        f"import traceback\nopen({str(path)!r}, 'w').write('changed')\n"
        "try:\n    raise KeyError('of the boot')\nexcept KeyError:\n    traceback.print_exc()\n"
    )
    assert "raise KeyError('of the boot')" in handler(path).stderr
    assert path.read_text() == "changed"


@pytest.mark.parametrize(
    ("source", "error", "words"),
    [
        (None, LoadError, "cannot read .*: no such file"),
        (b"def f(:", SyntaxError, "invalid syntax"),
        (b"a\0b", (SyntaxError, ValueError), "null bytes"),
        (b"'\xff'", SyntaxError, "utf-8"),
    ],
)
def test_what_is_no_script_fails_the_boot(tmp_path: Path, source: bytes | None, error, words: str) -> None:
    path = tmp_path / "work.py"
    if source is not None:
        path.write_bytes(source)
    with pytest.raises(error, match=words):
        script.prepare([HandlerSpec("a.b.1", "b", 1, script=str(path))])


@settings(max_examples=80, deadline=None)
@given(st.binary(max_size=60) | st.text(max_size=60).map(lambda text: text.encode(errors="surrogatepass")))
def test_any_bytes_are_compiled_or_refused(tmp_path_factory: pytest.TempPathFactory, source: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / f"any-{os.getpid()}.py"
    path.write_bytes(source)
    try:
        script.prepare([HandlerSpec("a.b.1", "b", 1, script=str(path))])
    except (SyntaxError, ValueError):
        return
    assert str(path) in script._codes
