"""`instar check FILE` for files of uWSGI, and what it says of the recipe's traps."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from instar.config.formats.uwsgi import Surroundings, read
from instar.uwsgi.explain import Explanation, explain
from instar.uwsgi.translate import Translation
from instar.uwsgi.traps import Trap, traps

Instar = Callable[..., Any]
APP = "module = x:app\nhttp = 127.0.0.1:8000\n"


def translation(folder: Path, name: str) -> Translation:
    around = Surroundings(environ={}, cwd=folder, uid=1000)
    return Translation(read(name, surroundings=around), around)


def lines_of(folder: Path, text: str) -> list[Explanation]:
    (folder / "site.ini").write_text(f"[uwsgi]\n{text}")
    return explain(translation(folder, "site.ini"))


def traps_of(folder: Path, text: str, name: str = "site.ini") -> list[Trap]:
    (folder / name).write_text(f"[uwsgi]\n{text}")
    return traps(translation(folder, name))


def open_ones(found: list[Trap]) -> list[tuple[str, str]]:
    return [(trap.name, trap.text) for trap in found if not trap.solved]


class TestLines:
    def test_every_line_of_the_recipe(self, site: Path) -> None:
        lines = explain(translation(site / "vassals", "vassal-zergling.yml"))
        found = {(line.key, line.effect, line.text) for line in lines}
        assert ("mule", "kept", f"handler main.job-handlers.1: runs {site}/server/lib/galaxy/main.py") in found
        assert ("farm", "kept", "the pool job-handlers: main.job-handlers.1, main.job-handlers.2") in found
        assert {line.effect for line in lines} == {"kept", "built-in", "ignored", "language", "skipped"}
        dummy = next(line for line in lines if line.key == "socket")
        assert (dummy.effect, dummy.place.line, dummy.setting) == ("ignored", 2, "")
        assert next(line for line in lines if line.key == "threads").setting == "web.threads"

    def test_a_line_whose_condition_does_not_hold(self, tmp_path: Path) -> None:
        """The recipe's most important line is such a one as long as nothing runs."""
        text = (
            APP
            + "if-exists = there\nhook-accepting1-once = writefifo:there 2q\nendif =\nfor =\nenv = A=%(_)\nendfor =\n"
        )
        skipped = [(line.place.line, line.key) for line in lines_of(tmp_path, text) if line.effect == "skipped"]
        assert skipped == [(5, "hook-accepting1-once"), (8, "env")]
        assert [line.place.line for line in lines_of(tmp_path, text)] == [2, 3, 4, 5, 6, 7, 8, 9]
        (tmp_path / "there").touch()
        assert {line.key: line.effect for line in lines_of(tmp_path, text)}["hook-accepting1-once"] == "kept"

    def test_overridden(self, tmp_path: Path) -> None:
        lines = lines_of(tmp_path, APP + "processes = 2\nworkers = 3\nenv = A=1\nenv = B=2\n")
        effects = [(line.key, line.effect, line.text) for line in lines]
        assert ("processes", "overridden", "site.ini:5 counts") in effects
        assert [effect for key, effect, _ in effects if key in ("workers", "env")] == ["kept"] * 3

    @pytest.mark.parametrize(
        ("line", "effect", "words"),
        [
            ("need-app = true", "built-in", "also without this line"),
            ("need-app = false", "kept", "better take the line out"),
            ("uid = nobody", "ignored", "only root"),
            ("die-on-term = false", "kept", "SIGTERM reloads"),
            ("mule =", "kept", "handler main.mule.1: waits for signals and messages"),
            ("mule = x:work", "kept", "handler main.mule.1: calls x:work"),
            ("mules = 2", "kept", "so many named handlers"),
            ("exec-asap = touch x", "kept", "(as a shell command)"),
            ("hook-accepting1-once = print:x", "kept", "once for each supervisor"),
            ("cheaper = 2", "unsupported", "the number of workers is fixed"),
            ("route = .* x", "refused", "routing rules"),
            ("proceses = 3", "unknown", "did you mean processes?"),
            ("base = /x\nchdir = %(base)", "language", "a variable of this file"),
            ("instar.health.path = /up", "kept", "a setting of instar"),
            ("jvm-classpath = x", "unsupported", "instar runs Python"),
            ("skip-zero = 1", "unsupported", "instar has nothing like it"),
        ],
    )
    def test_one(self, tmp_path: Path, line: str, effect: str, words: str) -> None:
        found = lines_of(tmp_path, APP + line)[2]
        assert (found.effect, words in found.text) == (effect, True), found

    def test_secrets_of_the_environment_are_not_shown(self, tmp_path: Path) -> None:
        assert lines_of(tmp_path, APP + "env = TOKEN=$(SECRET)\n")[2].value == "TOKEN=$(SECRET)"


class TestTraps:
    def test_the_recipe(self, site: Path) -> None:
        zergling = traps(translation(site / "vassals", "vassal-zergling.yml"))
        assert [(trap.name, trap.solved) for trap in zergling] == [
            ("no-gate", True),
            ("zergling-reload", True),
            ("two-at-once", True),
        ]
        pool = traps(translation(site / "vassals", "vassal-zergpool.yml"))
        assert [(trap.name, trap.solved) for trap in pool] == [("pool-reload", True)]

    def test_the_restarter_strands_jobs(self, site: Path) -> None:
        (trap,) = [trap for trap in traps(translation(site, "config/galaxy-restarter.yml")) if not trap.solved]
        assert trap.name == "stranded-jobs"
        assert str(trap.place) == f"{site}/config/job_conf-restarter.xml"

    def test_the_restarter_has_drifted(self, site: Path) -> None:
        main = site / "config/galaxy.yml"
        text = main.read_text().replace("threads: 4", "threads: 8").replace("  thunder", "  harakiri: 60\n  thunder")
        main.write_text(text)
        found = open_ones(traps(translation(site, "config/galaxy-restarter.yml")))
        assert [text for name, text in found if name == "drift"] == [
            "harakiri is not set here and 60 in galaxy.yml, which this instance stands in for",
            "threads is 4 here and 8 in galaxy.yml, which this instance stands in for",
        ]

    def test_gate_switched_off(self, tmp_path: Path) -> None:
        ((name, text),) = open_ones(traps_of(tmp_path, APP + "need-app = 0\n"))
        assert name == "no-gate"
        assert text.startswith("need-app is off")

    def test_first_start(self, tmp_path: Path) -> None:
        fifo = tmp_path / "a.fifo"
        hook = f"hook-accepting1-once = writefifo:{fifo} q\n"
        ((name, _),) = open_ones(traps_of(tmp_path, APP + hook))
        assert name == "first-start"
        fifo.touch()
        assert open_ones(traps_of(tmp_path, APP + f"if-exists = {fifo}\n{hook}endif =\n")) == []

    def test_open_socket(self, tmp_path: Path) -> None:
        ((name, text),) = open_ones(traps_of(tmp_path, "module = x:app\nsocket = :3031\n"))
        assert (name, "0.0.0.0:3031" in text) == ("open-socket", True)
        assert open_ones(traps_of(tmp_path, "module = x:app\nsocket = 127.0.0.1:3031\n")) == []
        closed = "module = x:app\nsocket = :3031\ninstar.web.uwsgi.allow = 10.0.0.1\n"
        assert open_ones(traps_of(tmp_path, closed)) == []

    def test_port_alone(self, tmp_path: Path) -> None:
        ((name, text),) = open_ones(traps_of(tmp_path, "module = x:app\nhttp = 8080\n"))
        assert (name, text.endswith("a port is :8080")) == ("port-alone", True)

    def test_static_order(self, tmp_path: Path) -> None:
        found = open_ones(traps_of(tmp_path, APP + "static-map = /s=a\nstatic-map = /s/x=b\nstatic-map = /s=c\n"))
        assert [text for _, text in found] == [
            "uWSGI looks below /s first, instar below the longer /s/x",
            "only the first folder for /s is looked at; uWSGI looks at both",
        ]


class TestVerb:
    def test_recipe(self, site: Path, instar: Instar) -> None:
        answer = instar("check", "vassal-zergling.yml", "--json", cwd=site / "vassals")
        assert answer.json["kind"] == "uwsgi"
        plan = {item["what"]: item["text"] for item in answer.json["plan"]}
        assert plan["addresses"] == f"those of the pool {site}/var/zerg/pool.sock"
        assert plan["handlers job-handlers"].startswith("main.job-handlers.1 runs ")
        assert len(answer.json["lines"]) == 29
        assert {trap["name"] for trap in answer.json["traps"]} == {"no-gate", "zergling-reload", "two-at-once"}
        errors = [item["subject"] for item in answer.json["findings"] if item["level"] == "error"]
        # Not even the server is missing, which the site never installed: instar lends its own.
        assert (errors, answer.code, answer.json["ok"]) == ([], 0, True)

    def test_for_people(self, site: Path, instar: Instar) -> None:
        answer = instar("check", site / "vassals/vassal-zergpool.yml")
        assert answer.code == 0
        assert "pool.sock hands out 127.0.0.1:4001" in answer.out
        assert "trap solved" in answer.out
        assert "instar uwsgi" in answer.out

    @pytest.mark.parametrize("option", ["--json", "--load"])
    def test_what_would_not_work(self, tmp_path: Path, instar: Instar, option: str) -> None:
        (tmp_path / "site.ini").write_text("[uwsgi]\nmodule = x:app\nsocket = @x\nroute = a b\n")
        answer = instar("check", "site.ini", option)
        assert answer.code == 2
        assert "Traceback" not in answer.out + answer.err
        assert "abstract sockets" in answer.out
        if option == "--json":
            assert [line["effect"] for line in answer.json["lines"]] == ["kept", "kept", "refused"]

    @pytest.mark.parametrize("text", ["", "[other]\nx = 1\n"])
    def test_nothing_in_it(self, tmp_path: Path, instar: Instar, text: str) -> None:
        (tmp_path / "site.ini").write_text(text)
        answer = instar("check", "site.ini")
        assert "it has no section [uwsgi]" in answer.out

    def test_no_such_file(self, instar: Instar) -> None:
        answer = instar("check", "nothing.yml")
        assert (answer.code, "no such file" in answer.err) == (2, True)
        assert instar("check", "nothing.yml", "--json").json["ok"] is False
