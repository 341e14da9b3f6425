"""The module's values, what it refuses, hooks, and the decorators."""

from __future__ import annotations

import dataclasses
import importlib
import os
import re
import sys
from pathlib import Path

import pytest
from inside_tools import Child, installed, mule

from instar.runtime.scoreboard import Column, State
from instar.runtime.spec import HandlerSpec
from instar.uwsgi.inside.refused import NotProvidedError


def test_options_are_bytes_and_repeated_ones_are_lists(inside):
    options = [("yaml", "/x.yml"), ("farm", "a:1"), ("farm", "b:2"), ("master", None), ("empty", ""), ("é", "ü")]
    assert inside(options).module.opt == {
        "yaml": b"/x.yml", "farm": [b"a:1", b"b:2"], "master": True, "empty": b"", "é": "ü".encode(),
    }  # fmt: skip


def test_values(inside):
    uwsgi = inside([("threads", "4x"), ("buffer-size", "16384"), ("pidfile", "/p"), ("locks", "2")]).module
    assert (uwsgi.version, uwsgi.version_info) == (b"2.0.31", (2, 0, 31, 0, b""))
    assert (uwsgi.cores, uwsgi.numproc, uwsgi.buffer_size, uwsgi.pidfile) == (4, 2, 16384, b"/p")
    assert uwsgi.masterpid() == os.getppid()
    assert uwsgi.is_locked(2) is False
    assert inside().module.buffer_size == 4096


def test_who_am_i(inside):
    made = inside(mules=[mule(1, "main.a.1", farms=["a"]), mule(2, "main.mule.2")])
    uwsgi = made.module
    assert (uwsgi.worker_id(), uwsgi.mule_id(), uwsgi.in_farm(), uwsgi.in_farm("a")) == (0, 0, None, None)
    made.extension.in_worker(2, 3)
    assert (uwsgi.worker_id(), uwsgi.mule_id()) == (2, 0)

    def in_mule(name):
        def body():
            made.become(name)
            return uwsgi.mule_id(), uwsgi.in_farm(), uwsgi.in_farm("a"), uwsgi.in_farm("b")

        return Child(body).result()

    assert in_mule("main.a.1") == "(1, True, True, None)"
    assert in_mule("main.mule.2") == "(2, None, None, None)"


def test_workers_from_the_scoreboard(inside):
    made = inside()
    board = made.board
    # Worker 1 serves; worker 2 is being replaced by the process of its second row.
    for row, state, pid in ((0, State.READY, os.getpid()), (1, State.STOPPING, 11), (3, State.READY, 12)):
        board.set(row, Column.STATE, state)
        board.set(row, Column.PID, pid)
    board.set(0, Column.REQUESTS, 7)
    board.set(3, Column.IN_FLIGHT, 1)
    first, second = made.module.workers()
    assert (first["id"], first["pid"], first["requests"], first["status"]) == (1, os.getpid(), 7, b"idle")
    assert (second["id"], second["pid"], second["status"]) == (2, 12, b"busy")
    assert abs(first["last_spawn"] - Path("/proc/self").stat().st_ctime) < 600
    assert made.module.ready() is True
    assert made.module.total_requests() == 7
    board.set(3, Column.STATE, State.STARTING)
    assert made.module.ready() is None


def test_what_is_asked_of_the_supervisor(inside):
    made = inside()
    assert (made.module.reload(), made.module.stop()) == (True, True)
    assert made.asked == ["reload", "stop"]


@pytest.mark.parametrize("name", ["cache_get", "SPOOL_OK", "spool", "register_signal", "add_timer", "websocket_recv"])
def test_the_rest_is_refused_by_name(inside, name):
    uwsgi = inside().module
    assert not hasattr(uwsgi, name)
    with pytest.raises(NotProvidedError, match=rf"cannot use uwsgi\.{name} under instar: instar "):
        getattr(uwsgi, name)


def test_what_uwsgi_does_not_have_either_is_an_ordinary_mistake(inside):
    with pytest.raises(AttributeError, match="module 'uwsgi' has no attribute 'worker'"):
        _ = inside().module.worker


def test_a_hook_that_is_never_called_is_told_of(inside, capsys):
    uwsgi = inside().module
    uwsgi.post_fork_hook = uwsgi.atexit = print
    assert not capsys.readouterr().err
    uwsgi.after_req_hook = print
    assert "after_req_hook" in capsys.readouterr().err


def test_hooks_run_where_uwsgi_runs_them(inside, capsys):
    made = inside()
    made.module.post_fork_hook = lambda: print("forked", made.module.worker_id())
    made.module.atexit = lambda: 1 / 0
    made.extension.in_worker(1, 0)
    made.extension.before_serving()
    made.extension.at_exit()
    said = capsys.readouterr()
    assert said.out == "forked 1\n"
    assert "ZeroDivisionError" in said.err


def test_with_lazy_apps_the_hook_comes_before_the_application(inside, capsys):
    made = inside([("lazy-apps", "true")], lazy=True)
    made.module.post_fork_hook = lambda: print("forked")
    made.extension.in_worker(1, 0)
    made.module.post_fork_hook = lambda: print("set by the application")
    made.extension.before_serving()
    assert capsys.readouterr().out == "forked\n"


def test_which_mules_load_a_lazy_application(inside):
    mules = [mule(1, "main.a.1", script="x.py"), mule(2, "main.a.2")]
    lazy, asked_for = inside(mules=mules), inside([("lazy-apps", None)], mules=mules)
    names = ["main.a.1", "main.a.2", "other"]
    assert [lazy.extension.loads_in(HandlerSpec(name, "p", 1)) for name in names] == [False, True, True]
    assert [asked_for.extension.loads_in(HandlerSpec(name, "p", 1)) for name in names] == [False, False, True]


def test_imports_of_the_file(inside, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "early_one.py").write_text("import sys, uwsgi\nARGV = list(sys.argv)")
    (tmp_path / "by file.py").write_text("X = 1")
    options = [("shared-import", "early_one"), ("import", str(tmp_path / "by file.py")), ("pymodule-alias", "js=json"),
               ("pyargv", "a  b")]  # fmt: skip
    with installed(inside(options), monkeypatch):
        assert sys.modules["early_one"].ARGV == ["uwsgi", "a", "b"]
        assert importlib.import_module("js") is importlib.import_module("json")
        assert [module.X for name, module in sys.modules.items() if name.endswith("by file")] == [1]


def test_folders_are_searched_in_the_order_of_uwsgi(inside, monkeypatch):
    made = inside()
    made.extension.spec = dataclasses.replace(made.extension.spec, pythonpath=("/first", "/second"))
    with installed(made, monkeypatch):
        assert sys.path[:3] == ["/second", "/first", made.extension.spec.chdir]
        ours = [entry for entry in sys.path if entry in ("/second", "/first", made.extension.spec.chdir)]
        assert len(set(ours)) == len(ours)


def test_an_import_that_fails_fails_the_boot_unless_no_application_is_needed(inside, monkeypatch, capsys):
    with pytest.raises(ModuleNotFoundError), installed(inside([("import", "nosuch_module")]), monkeypatch):
        pass
    with installed(inside([("import", "nosuch_module"), ("need-app", "false")]), monkeypatch):
        assert "nosuch_module" in capsys.readouterr().err


def test_every_name_is_documented(inside):
    page = (Path(__file__).parents[3] / "docs/uwsgi-module.md").read_text()
    names = [name for name in vars(inside([("mode", "x")]).module) if not name.startswith("_")]
    assert [name for name in names if not re.search(rf"`{name}[(`]", page)] == []


# --- decorators -----------------------------------------------------------------------------------


@pytest.fixture
def decorators(inside, monkeypatch):
    made = inside(mules=[mule(1, "main.a.1", farms=["a"]), mule(2, "main.a.2", farms=["a"])])
    with installed(made, monkeypatch) as uwsgi:
        module = importlib.import_module("uwsgidecorators")
        module.made = made
        assert uwsgi.post_fork_hook is module.postfork_chain_hook
        yield module


def test_postfork(decorators):
    ran = []
    decorators.postfork(lambda: ran.append("all"))
    decorators.postfork(2)(lambda: ran.append("two"))
    decorators.made.extension.in_worker(1, 0)
    decorators.made.extension.before_serving()
    decorators.made.extension.in_worker(2, 1)
    decorators.made.extension.before_serving()
    assert ran == ["all", "all", "two"]


def test_mule_and_loops_run_in_their_mule_only(decorators):
    got = []
    decorators.mule(1)(lambda: got.append("mule 1"))

    @decorators.farm("a")
    def on_farm(message):
        got.append(message)
        raise SystemExit

    decorators.mulemsg(2)(lambda message: got.append(message))
    decorators.made.extension.before_serving()
    assert got == []
    decorators.made.module.farm_msg("a", "hello")

    def body():
        decorators.made.become("main.a.1")
        try:
            decorators.made.extension.run_post_fork_hook()
        except SystemExit:
            return got

    assert Child(body).result() == str(["mule 1", b"hello"])


def test_muleloop_ends_with_an_error(decorators):
    turns = []

    @decorators.muleloop(1)
    def turn():
        turns.append(1)
        if len(turns) == 3:
            raise ValueError("enough")

    def body():
        decorators.made.become("main.a.1")
        try:
            decorators.made.extension.run_post_fork_hook()
        except SystemExit as error:
            return len(turns), error.code

    assert Child(body).result() == "(3, 1)"


def test_mulefunc_sends_json(decorators):
    done = []

    @decorators.mulefunc
    def work(*args, **kwargs):
        done.append((args, kwargs))

    @decorators.mulefunc(2)
    def second(x):
        done.append(x)

    work(1, "é", {"a": [None]}, flag=True)
    second(5)
    for refused in ((1, 2),), (b"x",), ({1: 2},):
        with pytest.raises(TypeError):
            work(*refused)

    def body():
        decorators.made.become("main.a.2")
        for _ in range(2):
            decorators.made.module.mule_msg_hook(decorators.made.module.mule_get_msg())
        return done

    assert Child(body).result() == str([5, ((1, "é", {"a": [None]}), {"flag": True})])


def test_lock_thread_and_harakiri(decorators):
    uwsgi = decorators.made.module
    assert decorators.lock(lambda: uwsgi.is_locked())() is True
    assert uwsgi.is_locked() is False
    ran = []
    decorators.thread(ran.append)(1)
    assert decorators.harakiri(60)(lambda: 5)() == 5


def test_harakiri_kills(decorators):
    pid = os.fork()
    if pid == 0:
        decorators.made.module.set_user_harakiri(1)
        import time

        time.sleep(20)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -9


@pytest.mark.parametrize("name", ["timer", "rbtimer", "cron", "filemon", "signal", "spool", "spoolraw", "rpc"])
def test_decorators_that_are_refused_can_be_imported(decorators, name):
    with pytest.raises(NotProvidedError, match=rf"cannot use @{name} of uwsgidecorators under instar: instar has no"):
        getattr(decorators, name)(5)
