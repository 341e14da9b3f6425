from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from instar.cli._format import seconds, size
from instar.errors import ExitCode
from instar.supervisor.logrecord import LogRecord
from instar.supervisor.logstore import LogStore

STAGES: list[dict[str, Any]] = [
    {"event": "stage", "stage": "wait", "state": "done", "seconds": 0.0001},
    {"event": "stage", "stage": "before", "state": "skipped"},
    {"event": "stage", "stage": "boot", "state": "started"},
    {"event": "stage", "stage": "boot", "state": "progress", "detail": "1 of 2 workers"},
    {"event": "stage", "stage": "boot", "state": "done", "seconds": 1.234, "detail": "2 workers"},
    {"event": "stage", "stage": "probe", "state": "done", "seconds": 0.01},
]
DONE = {
    "event": "result",
    "outcome": "done",
    "generation": 4,
    "from": 3,
    "stages": [{"stage": "boot", "state": "done", "seconds": 1.234}],
    "error": None,
    "log_tail": [],
    "seconds": 2.5,
}
ROLLED_BACK = {
    **DONE,
    "outcome": "rolled-back",
    "error": "cannot boot: ImportError: no module named 'shop'",
    "log_tail": ["Traceback (most recent call last):", "ImportError: \x1b[2Jno module"],
}


def test_status_shows_everything_on_plain_lines(run: Any, fake: Any) -> None:
    code, out, err = run("status")
    assert (code, err) == (0, "")
    assert "main serving, pid 4710, up 1 h 6 min, instar 0.1.0" in out
    assert "  [::]:8080 (steered)" in out
    assert "/srv/app/releases/7" in out
    assert "main.b.1" in out
    assert "52.4 MB" in out
    assert "note: the folder of the release [can] change in place" in out
    assert "\x1b" not in out
    assert fake.requests == [("GET", "/v1/status", None)]


def test_status_json_is_the_answer_itself(run: Any, fake: Any) -> None:
    code, out, _ = run("status", "--json")
    assert code == 0
    assert json.loads(out) == fake.status


def test_status_of_an_early_supervisor_with_empty_fields(run: Any, fake: Any) -> None:
    fake.status = {"app": "x", "pid": 1, "state": "starting", "generations": [{"number": 1, "state": "booting"}]}
    code, out, _ = run("status")
    assert code == 0
    assert "booting" in out


def test_status_without_a_supervisor(run: Any, state: Path) -> None:
    code, out, err = run("status")
    assert code == ExitCode.NO_SUPERVISOR
    assert out == ""
    assert err.startswith("instar: cannot ")


def test_an_error_of_the_supervisor_is_a_sentence(run: Any, fake: Any) -> None:
    fake.errors["/v1/restart"] = (409, "cannot restart: a handover to generation 4 is running; wait for it")
    code, _, err = run("restart")
    assert code == ExitCode.BUSY
    assert err == "instar: cannot restart: a handover to generation 4 is running; wait for it\n"


def test_restart_shows_stages_as_lines(run: Any, fake: Any) -> None:
    fake.streams["/v1/restart"] = [*STAGES, DONE]
    code, out, err = run("restart")
    assert (code, err) == (0, "")
    assert out.splitlines() == [
        "boot done (1.23 s): 2 workers",
        "probe done (10 ms)",
        "restart done in 2.50 s: generation 4 serves (before: 3)",
    ]
    assert fake.requests == [("POST", "/v1/restart", {"now": False, "keep_old": None, "canary": None})]


def test_restart_passes_its_options_on(run: Any, fake: Any) -> None:
    fake.streams["/v1/restart"] = [DONE]
    options = ["--now", "--keep-old", "10m", "--canary-share", "5%", "--canary-for", "90s"]
    code, _, _ = run("restart", *options, "--canary-network", "10.1.0.0/16", "--canary-network", "fd00::/8")
    assert code == 0
    canary = {"share": 0.05, "networks": ["10.1.0.0/16", "fd00::/8"], "duration": 90.0}
    assert fake.requests[0][2] == {"now": True, "keep_old": 600.0, "canary": canary}


def test_a_share_may_be_a_number(run: Any, fake: Any) -> None:
    fake.streams["/v1/restart"] = [DONE]
    assert run("restart", "--canary-share", "0.25")[0] == 0
    assert fake.requests[0][2]["canary"] == {"share": 0.25, "networks": [], "duration": None}


@pytest.mark.parametrize(
    "options",
    [
        ["--keep-old", "soon"],
        ["--canary-share", "many"],
        ["--canary-share", "1.5"],
        ["--canary-share", "100%"],
        ["--canary-network", "here"],
        ["--canary-for", "3s"],
        ["--unknown"],
    ],
)
def test_restart_refuses_bad_options(run: Any, fake: Any, options: list[str]) -> None:
    code, _, err = run("restart", *options)
    assert code == ExitCode.USAGE
    assert options[0] in err
    assert fake.requests == []


def test_a_rollback_shows_the_error_and_the_log_tail(run: Any, fake: Any) -> None:
    fake.streams["/v1/restart"] = [*STAGES, ROLLED_BACK]
    code, _, err = run("restart")
    assert code == ExitCode.ROLLED_BACK
    assert err.splitlines() == [
        "last lines of generation 4:",
        "  Traceback (most recent call last):",
        "  ImportError: \\x1b[2Jno module",
        (
            "instar: cannot restart to generation 4: cannot boot: ImportError: no module named 'shop'; "
            "generation 3 serves on"
        ),
    ]


@pytest.mark.parametrize(("outcome", "code"), [("done", 0), ("rolled-back", 3), ("busy", 4), ("failed", 1), ("new", 1)])
def test_json_prints_one_object_and_the_code_is_the_same(run: Any, fake: Any, outcome: str, code: int) -> None:
    fake.streams["/v1/restart"] = [*STAGES, {**ROLLED_BACK, "outcome": outcome}]
    found, out, err = run("restart", "--json")
    assert (found, err) == (code, "")
    answer = json.loads(out)
    assert (answer["outcome"], answer["generation"], answer["stages"]) == (outcome, 4, DONE["stages"])
    assert "event" not in answer


def test_a_stream_that_breaks_off_is_not_taken_for_success(run: Any, fake: Any) -> None:
    fake.streams["/v1/restart"] = STAGES
    code, _, err = run("restart")
    assert code == ExitCode.UNEXPECTED
    assert err.startswith("instar: cannot tell how the restart ended")


def test_rollback_uses_the_same_view(run: Any, fake: Any) -> None:
    fake.streams["/v1/rollback"] = [{"event": "stage", "stage": "cut-over", "state": "done", "seconds": 0.002}, DONE]
    code, out, _ = run("rollback")
    assert code == 0
    assert out.splitlines()[0] == "cut-over done (2 ms)"
    assert out.splitlines()[1].startswith("rollback done")


def test_stages_on_a_terminal_are_drawn(fake: Any, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    from instar.cli._stages import follow_handover

    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setenv("TERM", "xterm-256color")
    assert follow_handover(iter([*STAGES, DONE]), what="restart", as_json=False) == 0
    out = capsys.readouterr().out
    assert "✓" in out
    assert "boot" in out
    assert "1.23 s" in out


def test_slow_stages_are_mentioned_without_a_terminal(run: Any, fake: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("instar.cli._stages.PROGRESS_EVERY", 0.0)
    fake.streams["/v1/restart"] = [{**STAGES[0], "seconds": 12.0}, *STAGES[1:], {**DONE, "serving": 4}]
    _, out, _ = run("restart")
    assert out.splitlines()[:2] == ["wait done (12.0 s)", "boot …: 1 of 2 workers"]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "-"),
        (0.0004, "0.4 ms"),
        (0.05, "50 ms"),
        (1.5, "1.50 s"),
        (75, "75.0 s"),
        (150, "2 min"),
        (7260, "2 h 1 min"),
        (90000, "1 d 1 h"),
    ],
)
def test_durations(value: float | None, text: str) -> None:
    assert seconds(value) == text


def test_sizes() -> None:
    assert [size(value) for value in (None, 12, 52_400_000, 3_000_000_000)] == ["-", "12 B", "52.4 MB", "3.0 GB"]


def test_history(run: Any, fake: Any) -> None:
    fake.history = [
        {"time": 1_700_000_000.0, "kind": "boot", "generation": 1, "outcome": "done", "seconds": 1.5},
        {
            "time": 1_700_000_100.0,
            "kind": "restart",
            "generation": 2,
            "from": 1,
            "outcome": "rolled-back",
            "seconds": 3.0,
            "error": "cannot boot: [Errno 2]",
        },
    ]
    code, out, _ = run("history", "-n", "5")
    assert code == 0
    assert "1 → 2" in out
    assert "cannot boot: [Errno 2]" in out
    assert fake.requests == [("GET", "/v1/history?limit=5", None)]
    code, out, _ = run("history", "--json")
    assert json.loads(out) == {"entries": fake.history}


def test_logs_text_and_json(run: Any, fake: Any) -> None:
    line = {"time": 1_700_000_000.0, "generation": 3, "role": "web.1", "text": "GET / \x1b[31m200"}
    fake.streams["/v1/logs"] = [line]
    code, out, _ = run("logs", "-n", "5", "-g", "3", "--role", "web.1")
    assert code == 0
    assert out.endswith(" g3 web.1 | GET / 200\n")
    assert fake.requests[0][1] == "/v1/logs?lines=5&follow=0&generation=3&role=web.1"
    _, out, _ = run("logs", "-f", "--json")
    assert json.loads(out) == line
    assert fake.requests[1][1] == "/v1/logs?lines=50&follow=1"


def test_logs_after_a_crash_come_from_the_store(run: Any, state: Path) -> None:
    store = LogStore(state / "control/log")
    store.append(LogRecord(1.0, 2, "web.1", "last words"))
    code, out, err = run("logs")
    assert code == 0
    assert out.endswith("g2 web.1 | last words\n")
    assert "no supervisor runs" in err
    assert run("logs", "-f")[0] == ExitCode.NO_SUPERVISOR


def test_stop_waits_until_the_process_is_gone(run: Any, fake: Any, process: subprocess.Popen[bytes]) -> None:
    fake.status["pid"] = process.pid
    fake.on_stop = process.kill
    code, out, _ = run("stop", "--now")
    assert code == 0
    assert process.wait(0) is not None
    assert out.startswith("stopped in ")
    assert ("POST", "/v1/stop", {"now": True}) in fake.requests


def test_stop_json(run: Any, fake: Any, process: subprocess.Popen[bytes]) -> None:
    fake.status["pid"] = process.pid
    fake.on_stop = process.kill
    code, out, _ = run("stop", "--json")
    answer = json.loads(out)
    assert (code, answer["stopped"], answer["pid"]) == (0, True, process.pid)


def test_stop_of_a_supervisor_in_another_pid_namespace(run: Any, fake: Any) -> None:
    fake.status["pid"] = 2**22 + 1  # above any pid_max: there is no such process here
    code, _, _ = run("stop")
    assert code == 0
    assert not (fake.state / "control/control.sock").exists()


def test_version(run: Any) -> None:
    code, out, _ = run("version", "--json")
    assert code == 0
    assert set(json.loads(out)) == {"version", "protocol", "python"}
    assert run("--version")[1].startswith("instar ")


def test_a_bug_is_a_sentence_unless_debugging(run: Any, fake: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    fake.status = {"app": "main"}
    code, _, err = run("status")
    assert code == ExitCode.UNEXPECTED
    assert err.startswith("instar: cannot go on: unexpected KeyError")
    monkeypatch.setenv("INSTAR_DEBUG", "1")
    with pytest.raises(KeyError):
        run("status")


def test_python_dash_m_and_a_closed_pipe(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-m", "instar", "version"], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("instar ")
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run([sys.executable, "-m", "instar", "version"], stdout=writer, stderr=subprocess.PIPE, text=True)
    os.close(writer)
    assert "Traceback" not in done.stderr
