"""Which application answers what: compared with the real uWSGI, and where we differ on purpose."""

from __future__ import annotations

import sys

import pytest
from inside_tools import installed

from instar.errors import InstarError
from instar.uwsgi.inside.application import Builder, Dispatcher
from instar.uwsgi.inside.files import module_name
from oracle.uwsgi import needs_uwsgi, running

PATHS = ["/", "/foo", "/foo/bar", "/foobar", "/foo/bar/baz", "/x/1"]
APP = """
import sys
def make(name):
    def app(environ, start_response):
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [f"{name} script={environ.get('SCRIPT_NAME') or ''} path={environ['PATH_INFO']}".encode()]
    return app
application = make(__name__)
other = make("other")
def factory():
    return make("factory")
"""
#: Options, and whether uWSGI loads anything with them.
CASES = {
    "module": [("module", "one")],
    "module with a name": [("module", "one:other")],
    "factory": [("module", "one:factory()")],
    "callable": [("module", "one"), ("callable", "other")],
    "callable is a factory": [("module", "one"), ("callable", "factory()")],
    "last module counts": [("module", "nosuch"), ("wsgi", "one:other")],
    "file": [("wsgi-file", "sub/an.app.py")],
    "file with another ending": [("file", "sub/plain.wsgi"), ("callable", "other")],
    "module before file": [("wsgi-file", "sub/an.app.py"), ("module", "one")],
    "mount managed": [("mount", "/foo=one:other"), ("mount", "/foo=one:application"), ("manage-script-name", "true")],
    "mount of a file": [("mount", "/foo=sub/an.app.py"), ("manage-script-name", "true")],
    "mount without managing": [("mount", "/foo=one:other")],
    "two mounts, the longer wins": [
        ("mount", "/foo=one:other"), ("mount", "/foo/bar=one:application"), ("manage-script-name", "true")
    ],
    "module and mount": [("module", "one"), ("mount", "/foo=one:other"), ("manage-script-name", "true")],
    "no default": [("mount", "/foo=one:other"), ("manage-script-name", "true"), ("no-default-app", "true")],
    "nothing loads": [("module", "broken"), ("need-app", "false")],
    "one of two loads": [("module", "broken"), ("mount", "/foo=one:other"), ("need-app", "false")],
    "callable is missing": [("module", "one:nosuch"), ("need-app", "false")],
}  # fmt: skip


@pytest.fixture
def folder(tmp_path, monkeypatch):
    (tmp_path / "sub").mkdir()
    for name in ("one.py", "sub/an.app.py", "sub/plain.wsgi"):
        (tmp_path / name).write_text(APP)
    (tmp_path / "broken.py").write_text("raise RuntimeError('broken')")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


def call(app, path, **environ):
    """Status and body."""
    said = []
    body = app({"PATH_INFO": path, "SCRIPT_NAME": "", **environ}, lambda status, headers: said.append(status))
    return int(said[0].split()[0]), b"".join(body).decode()


@pytest.fixture
def ours(inside, monkeypatch, folder):
    """Builds the application of some options."""

    def build(options):
        made = inside(options)
        with installed(made, monkeypatch):
            return Builder(made.extension.data).build()

    return build


@needs_uwsgi
@pytest.mark.parametrize("case", CASES)
def test_as_uwsgi_does(case, folder, ours):
    options = CASES[case]
    arguments = [f"--{key}={value}" if value != "true" else f"--{key}" for key, value in options]
    arguments = [item for item in arguments if item != "--need-app=false"]
    # uWSGI's own interpreter: the standard library is enough for these applications.
    with running(folder, ["--disable-logging", "--home", sys.prefix, *arguments]) as real:
        expected = {path: real.get(path) for path in PATHS}
    app = ours(options)
    assert {path: call(app, path) for path in PATHS} == expected


@pytest.mark.parametrize("path", ["a.py", "sub/an.app.py", "/abs/x.wsgi", "noending", "./y.py"])
def test_names_of_files(path):
    assert "/" not in module_name(path)
    assert "." not in module_name(path)


def test_a_needed_application_that_does_not_load_is_the_error(ours):
    with pytest.raises(RuntimeError, match="broken"):
        ours([("module", "broken")])
    with pytest.raises(RuntimeError, match="broken"):
        ours([("module", "one"), ("mount", "/foo=broken:app")])


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ([], "cannot find an application: give module, wsgi-file or mount, or need-app: false"),
        ([("module", "one:nosuch")], "cannot find 'nosuch' in one:nosuch"),
        ([("wsgi-file", "nosuch.py")], "cannot read nosuch.py: no such file or directory"),
        ([("module", "one:__name__")], r"cannot serve one:__name__: it is not callable \(str\)"),
        ([("mount", "/foo")], "cannot mount /foo: it must be /PATH=APPLICATION"),
        ([("mount", "/foo=one")], "cannot mount one: it must be a .py or .wsgi file, or MODULE:NAME"),
    ],
)
def test_sentences(ours, options, sentence):
    with pytest.raises(InstarError, match=sentence):
        ours(options)


def test_a_mountpoint_may_end_with_a_slash(ours):
    """uWSGI reads beyond its buffer for /foo then, and puts other requests' memory into PATH_INFO."""
    app = ours([("mount", "/foo/=one:other"), ("manage-script-name", "true")])
    assert call(app, "/foo") == (200, "other script=/foo path=")
    assert call(app, "/foo/bar") == (200, "other script=/foo path=/bar")


def test_the_front_server_may_choose_by_script_name(ours):
    app = ours([("module", "one"), ("mount", "/foo=one:other")])
    options = [("module", "one"), ("mount", "/foo=one:other")]
    assert call(app, "/bar", SCRIPT_NAME="/foo") == (200, "other script=/foo path=/bar")
    assert call(ours(options), "/bar", SCRIPT_NAME="/elsewhere") == (200, "one script=/elsewhere path=/bar")


def test_several_applications_in_one_module(ours, folder):
    text = APP + '\napplications = {"": application, "/x": "other", b"/y": factory()}\n'
    (folder / "several.py").write_text(text)
    app = ours([("module", "several"), ("manage-script-name", "true")])
    assert call(app, "/x/1") == (200, "other script=/x path=/1")
    assert call(app, "/y") == (200, "factory script=/y path=")
    assert call(app, "/z") == (200, "several script= path=/z")


def test_a_request_may_bring_its_application(ours, capsys):
    app = ours([("need-app", "false")])
    assert isinstance(app, Dispatcher)
    assert call(app, "/") == (500, "Internal Server Error")
    assert "no python application found" in capsys.readouterr().err
    assert call(app, "/", UWSGI_MODULE="one", UWSGI_CALLABLE="other")[1] == "other script= path=/"
    # Loaded once for each SCRIPT_NAME.
    assert call(app, "/", UWSGI_SCRIPT="one:application")[1] == "other script= path=/"
    assert call(app, "/", UWSGI_APPID="a", UWSGI_SCRIPT="one:application")[1] == "one script= path=/"
    assert call(app, "/", UWSGI_APPID="b", UWSGI_FILE="sub/an.app.py")[1].startswith("uwsgi_file_sub_an_app script=")
    assert call(app, "/", UWSGI_APPID="c", UWSGI_MODULE="broken") == (500, "Internal Server Error")
    assert "RuntimeError: broken" in capsys.readouterr().err
