"""`instar jobs` on a real store; a handler's part is played through the store's own interface."""

from __future__ import annotations

import dataclasses
import json
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from instar.handlers import fence
from instar.handlers.lease import Lease
from instar.jobs.model import Claim, Ending, Outcome
from instar.jobs.store import JobStore
from instar.jobs.store.wanted import Place, Wanted

Run = Callable[..., tuple[int, str, str]]
TOML = "[app]\ntarget = 'a:b'\n[handlers.crew]\ntags = ['big']\n[jobs]\npool = 'crew'\n"
NAME = "main.crew.1"


@pytest.fixture
def store(state: Path) -> Iterator[JobStore]:
    """Of an application whose configuration is in the current folder."""
    Path("instar.toml").write_text(TOML)
    (state / "app" / "jobs").mkdir(parents=True)
    with JobStore.open(f"sqlite:///{state / 'app' / 'jobs.sqlite3'}") as opened:
        yield opened


class Handler:
    """Somebody who really holds the name."""

    def __init__(self, store: JobStore, state: Path) -> None:
        self.store, self.name = store, NAME
        self._lease = Lease(NAME, state / "lock", any_filesystem=True)
        assert self._lease.take(blocking=False)
        self._wanted = Wanted(
            {"local": Place("local")}, {"local": 9}, route=lambda job: dataclasses.replace(job, destination="local")
        )

    @property
    def epoch(self) -> int:
        return self._lease.epoch

    def fence(self, connection: Any) -> int:
        return fence.fence(self._lease, connection)

    def take(self) -> list[Claim]:
        with self.store.turn(self) as turn:
            return turn.claim(self._wanted)

    def finish(self, claim: Claim, **outcome: Any) -> None:
        with self.store.turn(self) as turn:
            turn.finish([(claim, Outcome(Ending.EXITED, **outcome))])


@pytest.fixture
def handler(store: JobStore, state: Path) -> Handler:
    return Handler(store, state)


def submit(run: Run, *arguments: str) -> int:
    code, out, _ = run("jobs", "submit", "--json", *arguments)
    assert code == 0
    answer = json.loads(out)
    assert set(answer) == {"id"}
    return int(answer["id"])


def shown(run: Run, number: int) -> dict[str, Any]:
    code, out, _ = run("jobs", "show", str(number), "--json")
    assert code == 0
    answer: dict[str, Any] = json.loads(out)
    return answer


def test_a_command(run: Run, store: JobStore) -> None:
    code, out, _ = run("jobs", "submit", "--", "echo", "--loud", "a b")
    assert (code, out) == (0, "1\n")
    job = store.get(1)
    assert job.submission.command == ("echo", "--loud", "a b")
    answer = shown(run, 1)
    wanted = {"id": 1, "state": "new", "handler": None, "exit_code": None, "attempt": 0, "progress": None}
    assert wanted.items() <= answer.items()
    assert (answer["command"], answer["attempts"]) == (["echo", "--loud", "a b"], [])


@pytest.mark.parametrize(("given", "stored"), [("", None), ("_null_", None), (NAME, NAME)])
def test_handlers(run: Run, store: JobStore, given: str, stored: str | None) -> None:
    number = submit(run, "--handler", given, "--", "true")
    assert store.get(number).submission.handler == stored


def test_every_option(run: Run, store: JobStore) -> None:
    number = submit(
        run, "--pool", "crew", "--tag", "big", "--destination", "local", "--param", "mem=4G", "--kind", "bwa", "--user",
        "eve", "--priority", "3", "--at", "+1h", "--env", "A=b=c", "--cwd", "/tmp", "--timeout", "90", "--kill-timeout",
        "2s", "--dedupe-key", "k", "--max-attempts", "4", "--backoff", "1m", "--on-lost", "hold", "--", "true",
    )  # fmt: skip
    job = store.get(number)
    given = job.submission
    assert (given.pool, given.tag, given.destination, dict(given.params)) == ("crew", "big", "local", {"mem": "4G"})
    assert (given.kind, given.user, given.priority, dict(given.env), given.cwd) == (
        "bwa", "eve", 3, {"A": "b=c"}, "/tmp",
    )  # fmt: skip
    assert (given.timeout, given.kill_timeout, given.dedupe_key) == (90.0, 2.0, "k")
    assert (given.max_attempts, given.backoff, given.on_lost) == (4, 60.0, "hold")
    assert 3590 < job.run_at - time.time() < 3601
    assert submit(run, "--dedupe-key", "k", "--", "false") == number


@pytest.mark.parametrize(
    ("arguments", "doubt"),
    [
        (["--handler", "main.crew.7"], "no handler main.crew.7 runs jobs here"),
        (["--pool", "mail"], "the pool mail doesn't run jobs here, crew does"),
        (["--tag", "huge"], "no handler has the tag huge here"),
        (["--tag", NAME], ""),
    ],
)
def test_nobody_to_take_it(run: Run, store: JobStore, arguments: list[str], doubt: str) -> None:
    code, out, err = run("jobs", "submit", *arguments, "--", "true")
    assert (code, out) == (0, "1\n")
    assert err == (f"instar: {doubt}; it waits until somebody does\n" if doubt else "")


def test_destinations(run: Run, store: JobStore) -> None:
    """One can be asked for by its tag, and must be there."""
    Path("instar.toml").write_text(f"{TOML}[jobs.destinations.large]\nrunner = 'local'\ntags = ['much']\n")
    assert store.get(submit(run, "--destination", "much", "--", "true")).submission.destination == "large"
    code, _, err = run("jobs", "submit", "--destination", "nowhere", "--", "true")
    assert code == 2
    assert "there is no destination 'nowhere' here; known are local, large" in err


def test_a_call(run: Run, store: JobStore) -> None:
    first = submit(run, "--call", "mysite.reports:make", "--args", '["2026", {"a": 1}]')
    second = submit(run, "--call", "mysite.reports:make", "--args", '{"year": 2026}')
    assert store.get(first).submission.args == ("2026", {"a": 1})
    assert dict(store.get(second).submission.kwargs) == {"year": 2026}
    code, out, _ = run("jobs", "show", str(second))
    assert code == 0
    assert "mysite.reports:make(year=2026)" in out


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ((), "give either a command or a target"),
        (("--call", "a:b", "--", "true"), "give either a command or a target"),
        (("--call", "a.b"), "target 'a.b' is not like module:function"),
        (("--args", "[1]", "--", "true"), "--args goes with --call"),
        (("--call", "a:b", "--args", "3"), "--args must be a JSON list or object"),
        (("--call", "a:b", "--args", "["), "--args is not JSON"),
        (("--env", "A", "--", "true"), "--env must be NAME=VALUE, not 'A'"),
        (("--timeout", "soon", "--", "true"), "--timeout must be"),
        (("--at", "noon", "--", "true"), "--at is a time such as"),
        (("--on-lost", "cry", "--", "true"), "--on-lost is one of fail, retry, hold, not 'cry'"),
    ],
)
def test_what_can_not_be_submitted(run: Run, store: JobStore, arguments: tuple[str, ...], sentence: str) -> None:
    code, out, err = run("jobs", "submit", *arguments)
    assert (code, out) == (2, "")
    assert err.startswith("instar: cannot submit the job: ")
    assert sentence in err
    assert store.find() == []


def test_a_life(run: Run, store: JobStore, handler: Handler) -> None:
    number = submit(run, "--", "false")
    (claim,) = handler.take()
    assert shown(run, number)["handler"] == NAME
    handler.finish(claim, exit_code=7)
    answer = shown(run, number)
    assert (answer["state"], answer["exit_code"], answer["attempt"]) == ("error", 7, 1)
    (attempt,) = answer["attempts"]
    assert (attempt["handler"], attempt["epoch"], attempt["exit_code"]) == (NAME, handler.epoch, 7)
    code, out, _ = run("jobs", "show", str(number))
    assert code == 0
    assert "by main.crew.1, epoch 1, in local, exited with status 7" in out
    code, out, _ = run("jobs", "retry", str(number))
    assert (code, out) == (0, f"job {number}: new\n")
    (claim,) = handler.take()
    handler.finish(claim, exit_code=0)
    assert shown(run, number)["state"] == "ok"
    code, _, err = run("jobs", "retry", str(number))
    assert (code, err) == (1, f"instar: cannot retry the job {number}: it is ok\n")


def test_list(run: Run, store: JobStore, handler: Handler) -> None:
    numbers = [submit(run, "--user", user, "--", "true") for user in ("eve", "bob", "eve")]
    first, *_ = handler.take()
    handler.finish(first, exit_code=3)
    assert [row["id"] for row in json.loads(run("jobs", "list", "--json")[1])["jobs"]] == numbers[::-1]
    assert [row["id"] for row in json.loads(run("jobs", "list", "--json", "--state", "error")[1])["jobs"]] == [1]
    assert [row["id"] for row in json.loads(run("jobs", "list", "--json", "--state", "live")[1])["jobs"]] == [3, 2]
    assert [row["id"] for row in json.loads(run("jobs", "list", "--json", "--user", "bob")[1])["jobs"]] == [2]
    assert [row["id"] for row in json.loads(run("jobs", "list", "--json", "-n", "1", "--before", "3")[1])["jobs"]] == [
        2
    ]
    code, out, _ = run("jobs", "list")
    assert code == 0
    assert "error 3" in out
    assert run("jobs", "list", "--state", "held")[1] == "no such jobs\n"
    code, _, err = run("jobs", "list", "--state", "odd")
    assert code == 2
    assert "cannot list jobs in the state 'odd': known are new, " in err


def test_cancel(run: Run, store: JobStore, handler: Handler) -> None:
    running = submit(run, "--", "true")
    handler.take()
    waiting = submit(run, "--", "true")
    code, out, _ = run("jobs", "cancel", str(waiting), str(running))
    assert code == 0
    assert out.splitlines()[0] == f"job {waiting}: cancelled"
    assert out.splitlines()[1].endswith("(cancelling)")
    assert shown(run, running)["cancelling"] is True


def test_no_such_job(run: Run, store: JobStore) -> None:
    code, _, err = run("jobs", "show", "99")
    assert (code, err) == (2, "instar: cannot find the job 99: there is none, or it was purged\n")


def test_wait(run: Run, store: JobStore, handler: Handler) -> None:
    good, bad = submit(run, "--", "true"), submit(run, "--", "false")
    claims = handler.take()

    def end() -> None:
        handler.finish(claims[0], exit_code=0)
        handler.finish(claims[1], exit_code=None, signal=9, error="it was killed")

    later = threading.Timer(0.2, end)
    later.start()
    assert run("jobs", "wait", str(good))[:2] == (0, f"job {good}: ok\n")
    code, out, _ = run("jobs", "wait", str(bad))
    later.join()
    assert (code, out) == (7, f"job {bad}: error SIGKILL: it was killed\n")
    code, out, _ = run("jobs", "wait", str(bad), "--json")
    assert (code, json.loads(out)["signal"]) == (7, 9)


def test_wait_no_longer(run: Run, store: JobStore) -> None:
    number = submit(run, "--", "true")
    code, _, err = run("jobs", "wait", str(number), "--timeout", "0.1")
    assert code == 1
    assert f"cannot wait longer for the job {number}: it is new after 0.1 s" in err


def test_logs(run: Run, state: Path, store: JobStore, handler: Handler) -> None:
    number = submit(run, "--", "true")
    code, _, err = run("jobs", "logs", str(number))
    assert code == 1
    assert "there was no attempt yet" in err
    (claim,) = handler.take()
    folder = state / "app" / "jobs" / claim.attempt.dispatch_key
    folder.mkdir()
    (folder / "out").write_text("said\n")
    (folder / "err").write_text("cried\n")
    assert run("jobs", "logs", str(number)) == (0, "said\n", "cried\n")
    assert run("jobs", "logs", "--errors", str(number)) == (0, "cried\n", "")
    code, _, err = run("jobs", "logs", "--attempt", "2", str(number))
    assert code == 1
    assert "there was no attempt 2" in err


def test_logs_follow_until_the_end(run: Run, state: Path, store: JobStore, handler: Handler) -> None:
    number = submit(run, "--", "true")
    (claim,) = handler.take()
    folder = state / "app" / "jobs" / claim.attempt.dispatch_key
    folder.mkdir()

    def work() -> None:
        with (folder / "out").open("w", buffering=1) as file:
            for line in range(5):
                file.write(f"{line}\n")
                time.sleep(0.05)
        handler.finish(claim, exit_code=0)

    worker = threading.Thread(target=work)
    worker.start()
    assert run("jobs", "logs", "-f", str(number)) == (0, "0\n1\n2\n3\n4\n", "")
    worker.join()


def test_reassign(run: Run, store: JobStore, handler: Handler) -> None:
    submit(run, "--handler", "main.crew.9", "--", "true")
    assert handler.take() == []
    code, out, _ = run("jobs", "reassign", "main.crew.9")
    assert (code, out) == (0, "1 waiting and 0 running jobs of main.crew.9 given to anyone\n")
    assert len(handler.take()) == 1
    answer = json.loads(run("jobs", "reassign", NAME, "--to", "main.crew.2", "--live", "--json")[1])
    assert answer == {"waiting": 0, "live": 1}
    code, _, err = run("jobs", "reassign", NAME, "--live")
    assert code == 1
    assert "name a handler" in err


def test_purge(run: Run, state: Path, store: JobStore, handler: Handler) -> None:
    number = submit(run, "--", "true")
    kept = submit(run, "--", "true")
    claim, _ = handler.take()
    folder = state / "app" / "jobs" / claim.attempt.dispatch_key
    folder.mkdir()
    handler.finish(claim, exit_code=0)
    assert run("jobs", "purge")[1] == "0 jobs deleted\n"
    assert run("jobs", "purge", "--older", "0", "--state", "error")[1] == "0 jobs deleted\n"
    assert run("jobs", "purge", "--older", "0")[1] == "1 job deleted\n"
    assert not folder.exists()
    assert run("jobs", "show", str(number))[0] == 2
    assert shown(run, kept)["state"] in ("dispatching", "running")
    code, _, err = run("jobs", "purge", "--state", "running")
    assert code == 1
    assert "they have not ended" in err


def test_stats(run: Run, store: JobStore, handler: Handler) -> None:
    assert run("jobs", "stats")[1].startswith("no jobs")
    submit(run, "--", "true")
    handler.take()
    submit(run, "--handler", "main.crew.9", "--", "true")
    submit(run, "--", "true")
    answer = json.loads(run("jobs", "stats", "--json")[1])
    assert answer["states"]["new"] == 2
    assert answer["waiting"] == {"": 1, "main.crew.9": 1}
    assert answer["live"] == {NAME: 1}
    assert answer["oldest_wait"] >= 0
    code, out, _ = run("jobs", "stats")
    assert code == 0
    assert "anyone" in out


def test_a_store_without_a_configuration(run: Run, state: Path, store: JobStore) -> None:
    Path("instar.toml").unlink()
    url = f"sqlite:///{state / 'app' / 'jobs.sqlite3'}"
    assert run("jobs", "submit", "--store", url, "--", "true")[:2] == (0, "1\n")
    assert run("jobs", "list", "--store", "mysql://x")[0] == 1
    code, _, err = run("jobs", "list")
    assert code == 2
    assert "cannot read instar.toml" in err


def test_without_jobs_in_the_configuration(run: Run, state: Path) -> None:
    Path("instar.toml").write_text("[app]\ntarget = 'a:b'\n")
    code, _, err = run("jobs", "list")
    assert (code, err) == (
        2,
        "instar: cannot run jobs: there is no [jobs] pool; name the pool of handlers that is to run them\n",
    )


def test_the_url_may_stand_in_the_environment(run: Run, state: Path, store: JobStore) -> None:
    Path("instar.toml").write_text(TOML + "store_env = 'TEST_DSN'\n")
    code, _, err = run("jobs", "list")
    assert code == 2
    assert "the environment variable TEST_DSN" in err
    Path("instar.toml").write_text(
        TOML + f"store_env = 'TEST_DSN'\n[app.env]\nTEST_DSN = 'sqlite:///{state / 'app' / 'jobs.sqlite3'}'\n"
    )
    assert run("jobs", "list")[:2] == (0, "no such jobs\n")
