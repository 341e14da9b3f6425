"""`instar convert`: the same application in an `instar.toml`."""

from __future__ import annotations

import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from instar.config import Config, load, toml

Instar = Callable[..., Any]
APP = "[uwsgi]\nmodule = x:app\nhttp = 127.0.0.1:8000\n"


@pytest.fixture
def converted(tmp_path: Path, instar: Instar) -> Callable[..., tuple[Config, list[str]]]:
    """Convert these lines; what instar reads of the result, and what was left out."""

    def convert(text: str, *, name: str = "site.ini") -> tuple[Config, list[str]]:
        (tmp_path / name).write_text(text)
        answer = instar("convert", name, "-o", "instar.toml", "-f", "--json")
        assert answer.code == 0, answer.err
        assert answer.json["file"] == str(tmp_path / "instar.toml")
        return load(tmp_path / "instar.toml"), answer.json["left_out"]

    return convert


class TestRecipe:
    def test_zergling_finds_its_pool(self, site: Path, instar: Instar) -> None:
        answer = instar("convert", "vassals/vassal-zergling.yml", "-o", "instar.toml", cwd=site)
        assert answer.code == 0, answer.err
        config = load(site / "instar.toml")
        assert config.app.name == "galaxy"
        assert (config.app.target, config.app.factory) == ("galaxy.webapps.galaxy.buildapp:uwsgi_app", True)
        assert (config.app.chdir, config.app.python) == (site / "server", site / "server/.venv/bin/python")
        assert config.web.bind == ("0.0.0.0:8080", "uwsgi:127.0.0.1:4001")
        assert (config.web.workers, config.web.threads, config.web.uwsgi.buffer_size) == (2, 4, 16384)
        assert config.handler_names("job-handlers") == ["main.job-handlers.1", "main.job-handlers.2"]
        assert config.handlers["job-handlers"].script == site / "server/lib/galaxy/main.py"
        assert config.web.static["/static"] == site / "server/static"
        assert "master-fifo" in answer.out
        assert "instar check --load -c instar.toml" in answer.out

    def test_restarter_is_not_needed(self, site: Path, instar: Instar) -> None:
        files = ["vassals/vassal-zergling.yml", "config/galaxy-restarter.yml", "vassals/vassal-zergpool.yml"]
        answer = instar("convert", *files, "--json", cwd=site)
        assert any(text.startswith("config/galaxy-restarter.yml as a whole") for text in answer.json["left_out"])
        assert tomllib.loads(answer.json["toml"])["app"]["name"] == "galaxy"
        assert answer.json["file"] is None

    def test_without_the_pool(self, site: Path, instar: Instar) -> None:
        (site / "vassals/vassal-zergpool.yml").unlink()
        answer = instar("convert", "vassals/vassal-zergling.yml", "--json", cwd=site)
        assert answer.json["left_out"][0].startswith("[web] bind: the pool's file was not given")

    def test_where_each_key_comes_from(self, site: Path, instar: Instar) -> None:
        text = instar("convert", "vassals/vassal-zergling.yml", cwd=site).out
        assert f"threads = 4  # threads ({site}/config/galaxy.yml:5)\n" in text


class TestOptions:
    def test_what_instar_does_anyway_is_not_written(self, tmp_path: Path, instar: Instar) -> None:
        (tmp_path / "site.ini").write_text(APP)
        raw = tomllib.loads(instar("convert", "site.ini").out)
        assert raw == {
            # Under uWSGI a job may call sudo: what differs from instar's own default stays as it was.
            "app": {
                "name": "site",
                "target": "x:app",
                "interface": "wsgi",
                "chdir": str(tmp_path),
                "no_new_privs": False,
            },
            "web": {"bind": ["127.0.0.1:8000"], "workers": 1, "threads": 1, "access_log": True},
            "restart": {"boot_timeout": 300},
            "health": {"status": "200-499"},
        }

    def test_names_of_handlers_stay(self, converted: Callable[..., tuple[Config, list[str]]]) -> None:
        config, left_out = converted(
            APP + "mule = a.py\nmule = x:work\nmule =\nmule = a.py\nmule = b.py\nfarm = f:1,2,4\nserver-name = blue\n"
        )
        names = [name for pool in config.handlers for name in config.handler_names(pool)]
        assert sorted(names) == ["blue.f.1", "blue.f.2", "blue.f.3", "blue.mule.5"]
        assert [config.handlers[pool].script is None for pool in config.handlers] == [False, True, False]
        # Each is forked from the application, as a mule is, and is called when its name is free.
        assert [config.handlers[pool].handover for pool in config.handlers] == ["warm", "cold", "warm"]
        assert any("mule 3 (blue.mule.3) only waits" in text for text in left_out)

    @pytest.mark.parametrize(
        ("lines", "target", "path"),
        [
            ("wsgi-file = app.py", "app:application", []),
            ("wsgi-file = sub/app.py\ncallable = make()", "app:make", ["sub"]),
            ("mount = /x=y:z", "y:application", []),
        ],
    )
    def test_other_ways_to_name_an_application(
        self,
        tmp_path: Path,
        converted: Callable[..., tuple[Config, list[str]]],
        lines: str,
        target: str,
        path: list[str],
    ) -> None:
        config, _ = converted(f"[uwsgi]\nhttp = 127.0.0.1:8000\n{lines}\n")
        assert config.app.target == target
        assert config.app.factory == ("()" in lines)
        assert config.app.pythonpath == tuple(tmp_path / name for name in path)

    def test_no_secret_gets_into_the_file(
        self, tmp_path: Path, converted: Callable[..., tuple[Config, list[str]]], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("TOKEN", "very-secret")
        config, left_out = converted(APP + "env = A=1\nenv = TOKEN=$(TOKEN)\n")
        assert config.app.env == {"A": "1"}
        assert "very-secret" not in (tmp_path / "instar.toml").read_text()
        assert any("TOKEN=$(TOKEN)" in text for text in left_out)

    def test_what_is_left_out(self, converted: Callable[..., tuple[Config, list[str]]]) -> None:
        _, left_out = converted(
            APP + "cheaper = 2\ntouch-reload = x\nhook-asap = print:x\nproceses = 2\nroute = a b\nneed-app = true\n"
        )
        assert [text.partition(" ")[0] for text in left_out] == [
            "cheaper",
            "touch-reload",
            "hook-asap",
            "proceses",
            "route",
        ]

    def test_a_name_of_the_standard_library(self, converted: Callable[..., tuple[Config, list[str]]]) -> None:
        _, left_out = converted("[uwsgi]\nhttp = 127.0.0.1:8000\nwsgi-file = site.py\n")
        assert "give it another one" in left_out[0]

    @pytest.mark.parametrize(
        ("source", "words"),
        [
            (
                "import time\nimport uwsgi\n",
                ["work.py:2 imports uwsgi, which is not there; use instar."],
            ),
            ("def f():\n  from uwsgidecorators import mule\n", ["work.py:2 imports uwsgidecorators, which"]),
            ("try:\n  import uwsgi\nexcept ImportError:\n  uwsgi = None\n", []),
            ("from . import uwsgi\nfrom mine import uwsgi\n", []),
            ("print 'two'\n", ["work.py is no Python that instar's own interpreter understands"]),
            (None, ["work.py: no such file or directory"]),
        ],
    )
    def test_what_a_script_would_miss(
        self, tmp_path: Path, converted: Callable[..., tuple[Config, list[str]]], source: str | None, words: list[str]
    ) -> None:
        if source is not None:
            (tmp_path / "work.py").write_text(source)
        _, left_out = converted(APP + "mule = work.py\n")
        assert len(left_out) == len(words)
        for text, part in zip(left_out, words, strict=True):
            assert text.startswith("mule 1 (main.mule.1): ")
            assert part in text


class TestRefused:
    def test_an_existing_file_stays(self, tmp_path: Path, instar: Instar) -> None:
        (tmp_path / "site.ini").write_text(APP)
        (tmp_path / "instar.toml").write_text("precious")
        answer = instar("convert", "site.ini", "-o", "instar.toml")
        assert (answer.code, "replace it with --force" in answer.err) == (2, True)
        assert (tmp_path / "instar.toml").read_text() == "precious"

    @pytest.mark.parametrize(
        ("files", "words"),
        [
            ({"a.ini": "[uwsgi]\nzerg-pool = a:b\n"}, "no file names an application"),
            ({"a.ini": APP, "b.ini": APP}, "convert one at a time"),
            ({"a.ini": APP + "farm = x:1\n"}, "there is no mule 1"),
            ({"a.ini": APP + "protocol = scgi\nsocket = :1\n"}, "protocol = scgi"),
        ],
    )
    def test_sentence(self, tmp_path: Path, instar: Instar, files: dict[str, str], words: str) -> None:
        for name, text in files.items():
            (tmp_path / name).write_text(text)
        answer = instar("convert", *files)
        assert answer.code == 2
        assert words in answer.err
        assert answer.err.startswith("instar: cannot ")


class TestWriter:
    @pytest.mark.parametrize(
        "table",
        [
            {"a": {"b": 'x"y\\z\n\t\x7f\u2028ä', "c d": [1, 2.5, True, "x"], "e.f": {"g": "h"}}},
            {"a": {"": 1, "ü": {"x": ["a", ["b"]]}}},
            {"a": {"b": {"c": {"d": 1}}, "e": 2}},
        ],
    )
    def test_reads_back(self, table: dict[str, Any]) -> None:
        assert tomllib.loads(toml.document(table, {})) == table
