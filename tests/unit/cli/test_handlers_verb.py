from __future__ import annotations

import json
import time
from typing import Any

import pytest

from instar.errors import ExitCode

HANDLERS = [
    {
        "name": "main.mail.1",
        "pool": "mail",
        "index": 1,
        "epoch": 17,
        "pid": 4720,
        "state": "active",
        "generation": 3,
        "since": time.time() - 3600 * 4,
        "restarts": 0,
        "note": "",
    },
    {"name": "main.mail.2", "pool": "mail", "index": 2, "state": "paused", "note": "since [yesterday]"},
]
QUEUES = [{"name": "mail", "bytes": 106_496, "limit": 425_984}, {"name": "main.mail.1", "bytes": 0, "limit": 425_984}]
STAGE = {"event": "stage", "stage": "handler", "state": "done", "seconds": 0.002, "detail": "pid 4730"}
DONE = {"event": "result", "outcome": "done", "generation": 4, "from": 3, "stages": [], "error": None, "seconds": 2.5}
ONE = {
    "event": "result",
    "outcome": "done",
    "handler": "main.mail.1",
    "state": "active",
    "generation": 3,
    "epoch": 18,
    "seconds": 0.25,
}


def test_status_shows_handlers_and_queues(run: Any, fake: Any) -> None:
    fake.status |= {"handlers": HANDLERS, "queues": QUEUES}
    code, out, err = run("status")
    assert (code, err) == (0, "")
    rows = [line.split() for line in out.splitlines()]
    # Its age grows while the tests run.
    assert any(row[:7] == ["main.mail.1", "active", "3", "4720", "17", "4", "h"] and row[-1] == "0" for row in rows)
    assert ["main.mail.2", "paused", "(since", "[yesterday])", "-", "-", "-", "-", "-"] in rows
    assert ["mail", "106.5", "kB", "426.0", "kB", "25%"] in rows


def test_list_shows_the_same(run: Any, fake: Any) -> None:
    fake.status |= {"handlers": HANDLERS, "queues": QUEUES}
    code, out, err = run("handlers", "list")
    assert (code, err) == (0, "")
    assert "main.mail.1" in out
    assert "25%" in out
    assert "worker" not in out


def test_list_json_is_one_object(run: Any, fake: Any) -> None:
    fake.status |= {"handlers": HANDLERS, "queues": QUEUES}
    code, out, _ = run("handlers", "list", "--json")
    assert code == 0
    assert json.loads(out) == {"handlers": HANDLERS, "queues": QUEUES}


@pytest.mark.parametrize("missing", [True, False])
def test_list_without_handlers_says_what_to_do(run: Any, fake: Any, missing: bool) -> None:
    if missing:
        del fake.status["handlers"]
    code, out, _ = run("handlers", "list")
    assert code == 0
    assert out == "no handlers; add a table [handlers.POOL] to the configuration\n"


@pytest.mark.parametrize("verb", ["restart", "move", "pause", "resume"])
def test_changes_are_streamed(run: Any, fake: Any, verb: str) -> None:
    path = f"/v1/handlers/main.mail.1/{verb}"
    fake.streams[path] = [STAGE, ONE]
    code, out, err = run("handlers", verb, "main.mail.1")
    assert (code, err) == (0, "")
    assert out.splitlines() == [
        "handler done (2 ms): pid 4730",
        f"{verb} main.mail.1 done in 0.25 s: active in generation 3, epoch 18",
    ]
    assert fake.requests == [("POST", path, {})]


def test_a_paused_handler_has_no_generation(run: Any, fake: Any) -> None:
    fake.streams["/v1/handlers/x/pause"] = [{**ONE, "state": "paused", "generation": None, "epoch": None}]
    assert run("handlers", "pause", "x")[1] == "pause x done in 0.25 s: paused\n"


def test_a_name_is_quoted_in_the_path(run: Any, fake: Any) -> None:
    fake.streams["/v1/handlers/a%2Fb%3F/pause"] = [ONE]
    assert run("handlers", "pause", "a/b?")[0] == 0


def test_a_change_that_fails_is_a_sentence(run: Any, fake: Any) -> None:
    error = "cannot boot: the fresh process ended before it was ready"
    fake.streams["/v1/handlers/x/restart"] = [{**ONE, "outcome": "failed", "error": error}]
    code, out, err = run("handlers", "restart", "x")
    assert (code, out) == (ExitCode.UNEXPECTED, "")
    assert err == "instar: cannot restart x: cannot boot: the fresh process ended before it was ready\n"


def test_an_unknown_handler(run: Any, fake: Any) -> None:
    fake.errors["/v1/handlers/x/restart"] = (400, "cannot restart x: there is no such handler")
    code, _, err = run("handlers", "restart", "x")
    assert (code, err) == (ExitCode.USAGE, "instar: cannot restart x: there is no such handler\n")


@pytest.mark.parametrize("arguments", [["restart"], ["rename", "x"], ["list", "--nope"]])
def test_wrong_usage(run: Any, fake: Any, arguments: list[str]) -> None:
    assert run("handlers", *arguments)[0] == ExitCode.USAGE
    assert fake.requests == []


def test_help_lists_the_sub_commands(run: Any) -> None:
    code, out, _ = run("handlers", "--help")
    assert code == 0
    for name in ("list", "restart", "move", "pause", "resume"):
        assert f" {name} " in out


@pytest.mark.parametrize(
    ("options", "added"),
    [
        ([], {}),
        (["--web"], {"parts": ["web"]}),
        (["--handlers"], {"parts": ["handlers"]}),
        (["--web", "--handlers"], {"parts": ["web", "handlers"]}),
        (["--pool", "mail", "--pool", "big"], {"parts": ["handlers"], "pools": ["mail", "big"]}),
        (["--web", "--pool", "mail"], {"parts": ["web", "handlers"], "pools": ["mail"]}),
    ],
)
def test_parts_of_a_restart(run: Any, fake: Any, options: list[str], added: dict[str, Any]) -> None:
    fake.streams["/v1/restart"] = [DONE]
    assert run("restart", *options)[0] == 0
    assert fake.requests[0][2] == {"now": False, "keep_old": None, "canary": None} | added


@pytest.mark.parametrize(
    "options",
    [["--handlers", "--pool", "mail"], ["--handlers", "--canary-share", "5%"], ["--pool", "x", "--canary-share", "5%"]],
)
def test_parts_that_contradict_each_other(run: Any, fake: Any, options: list[str]) -> None:
    code, _, err = run("restart", *options)
    assert code == ExitCode.USAGE
    assert err.startswith("instar: cannot use ")
    assert fake.requests == []


def test_a_restart_of_the_handlers_does_not_claim_to_serve(run: Any, fake: Any) -> None:
    fake.streams["/v1/restart"] = [{**DONE, "parts": ["handlers"]}]
    _, out, _ = run("restart", "--handlers")
    assert out == "restart done in 2.50 s: handlers run in generation 4 (before: 3)\n"


@pytest.mark.parametrize(
    ("arguments", "path"),
    [
        (["restart"], "/v1/restart"),
        (["rollback"], "/v1/rollback"),
        (["handlers", "move", "main.mail.2"], "/v1/handlers/main.mail.2/move"),
    ],
)
def test_a_kept_name_is_exit_code_6(run: Any, fake: Any, arguments: list[str], path: str) -> None:
    result = {**(ONE if "handlers" in arguments else DONE), "kept": ["main.mail.2"]}
    fake.streams[path] = [result]
    code, out, err = run(*arguments)
    assert code == ExitCode.HANDLER_KEPT
    assert " done in " in out
    assert err == (
        "instar: cannot move main.mail.2 yet: it was not finished in stop_timeout and keeps its name in the old code; "
        "later, `instar handlers move main.mail.2` tries again\n"
    )
    code, out, err = run(*arguments, "--json")
    assert (code, err) == (ExitCode.HANDLER_KEPT, "")
    assert json.loads(out)["kept"] == ["main.mail.2"]


@pytest.mark.parametrize(("outcome", "code"), [("rolled-back", 3), ("failed", 1)])
def test_a_failure_is_worse_than_a_kept_name(run: Any, fake: Any, outcome: str, code: int) -> None:
    fake.streams["/v1/restart"] = [{**DONE, "outcome": outcome, "kept": ["main.mail.2"]}]
    assert run("restart")[0] == code


def test_nothing_kept_is_success(run: Any, fake: Any) -> None:
    fake.streams["/v1/restart"] = [{**DONE, "kept": []}]
    assert run("restart")[0] == 0
