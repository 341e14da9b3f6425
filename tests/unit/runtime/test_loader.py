"""Finding the application, telling WSGI from ASGI, and explaining what went wrong."""

from __future__ import annotations

import sys
import threading
from pathlib import Path

import pytest

from instar.runtime.loader import ForkHazards, LoadError, explain, load

SOURCE = """
def wsgi(environ, start_response): ...
async def asgi(scope, receive, send): ...
class Asgi:
    async def __call__(self, scope, receive, send): ...
class Wsgi:
    def __call__(self, environ, start_response): ...
class Namespace:
    inner = staticmethod(wsgi)
asgi_object, wsgi_object = Asgi(), Wsgi()
def make(): return asgi
number = 3
"""


@pytest.fixture(autouse=True)
def modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "loaded_app.py").write_text(SOURCE)
    (tmp_path / "broken_app.py").write_text("import missing_dependency\n")
    (tmp_path / "failing_app.py").write_text("def deep():\n    raise RuntimeError('no database')\ndeep()\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    for name in ("loaded_app", "broken_app", "failing_app"):
        sys.modules.pop(name, None)
    return tmp_path


@pytest.mark.parametrize(
    ("attribute", "factory", "interface"),
    [
        ("wsgi", False, "wsgi"),
        ("asgi", False, "asgi"),
        ("wsgi_object", False, "wsgi"),
        ("asgi_object", False, "asgi"),
        ("Namespace.inner", False, "wsgi"),
        ("make", True, "asgi"),
    ],
)
def test_the_interface_is_found(attribute: str, factory: bool, interface: str) -> None:
    assert load(f"loaded_app:{attribute}", factory=factory, interface="auto").interface == interface


def test_the_interface_can_be_said() -> None:
    assert load("loaded_app:wsgi", factory=False, interface="asgi").interface == "asgi"


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("absent_app:app", "cannot import absent_app: no such module"),
        ("loaded_app:absent", "cannot find 'absent' in loaded_app"),
        ("loaded_app:number", "is not callable"),
    ],
)
def test_a_wrong_target_is_one_sentence(target: str, message: str) -> None:
    with pytest.raises(LoadError, match=message) as caught:
        load(target, factory=False, interface="auto")
    assert explain(caught.value).count("\n") == 1


def test_a_missing_dependency_is_the_applications_own_error() -> None:
    with pytest.raises(ModuleNotFoundError, match="missing_dependency"):
        load("broken_app:app", factory=False, interface="auto")


def test_a_traceback_shows_the_applications_frames_only(modules: Path) -> None:
    with pytest.raises(RuntimeError) as caught:
        load("failing_app:app", factory=False, interface="auto")
    text = explain(caught.value)
    assert "no database" in text and "in deep" in text
    assert "importlib" not in text and "runtime/loader.py" not in text


def test_threads_that_an_import_started_are_named() -> None:
    hazards, end = ForkHazards(), threading.Event()
    thread = threading.Thread(target=end.wait, name="poller")
    thread.start()
    try:
        assert any("poller" in note for note in hazards.found())
    finally:
        end.set()
        thread.join()


def test_nothing_found_is_nothing_said() -> None:
    assert ForkHazards().found() == []
