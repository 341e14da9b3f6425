"""What every store of jobs has to do, on SQLite and PostgreSQL."""

from __future__ import annotations

import threading
import time
from dataclasses import replace

import pytest
from job_tools import DONE, FAILED, WANTED, claim, command, finish, ids, want

from instar.handlers.errors import Fenced
from instar.jobs.errors import JobError, NoSuchJobError, SubmissionError, WaitTimeoutError
from instar.jobs.model import Ending, JobState, OnLost, Outcome, Submission
from instar.jobs.store import JobStore
from instar.jobs.store.turn import Note
from instar.jobs.store.wanted import Place, Waiting, Wanted

LOST = Outcome(Ending.LOST, error="its shim was killed")


def test_what_was_submitted_comes_back(store: JobStore) -> None:
    given = Submission(
        command=("sh", "-c", "exit 3"),
        kind="tool",
        handler="main.jobs.2",
        pool="jobs",
        tag="big",
        destination="cluster",
        params={"partition": "long", "cpus": 4},
        user="ann",
        priority=-5,
        run_at=12345.5,
        max_attempts=3,
        backoff=2.0,
        backoff_limit=60.0,
        on_lost=OnLost.HOLD,
        dedupe_key="k",
        env={"A": "ä"},
        cwd="/tmp",
        timeout=9.5,
        kill_timeout=0.0,
    )
    job = store.get(store.submit(given))
    assert job.submission == given
    assert (job.state, job.attempt, job.holder, job.handler) == (JobState.NEW, 0, None, "main.jobs.2")
    assert abs(job.created_at - time.time()) < 60
    target = Submission(target="a.b:c", args=(1, [2.5, None]), kwargs={"x": {"y": "z"}})
    job = store.get(store.submit(target))
    assert job.submission.args == target.args
    assert job.submission.kwargs == target.kwargs
    assert job.kind == "a.b:c"
    assert job.submission.kill_timeout == target.kill_timeout


@pytest.mark.parametrize("handler", [None, "", "_null_"])
def test_no_handler_means_anyone(store: JobStore, hold, handler: str | None) -> None:
    job = store.submit(command(handler=handler))
    assert store.get(job).submission.handler is None
    assert ids(claim(store, hold("main.jobs.7"))) == [job]


def test_a_named_job_waits_for_its_handler(store: JobStore, hold) -> None:
    one, two = hold("main.jobs.1"), hold("main.jobs.2")
    job = store.submit(command(handler="main.jobs.2"))
    assert claim(store, one) == []
    (claimed,) = claim(store, two)
    assert (claimed.job.id, claimed.job.holder, claimed.job.state) == (job, "main.jobs.2", JobState.DISPATCHING)
    assert (claimed.attempt.number, claimed.attempt.handler, claimed.attempt.epoch) == (1, "main.jobs.2", two.epoch)
    assert claimed.attempt.dispatch_key == f"{store.site}-{job}-a1"
    assert claim(store, two) == []


def test_pool_and_tag(store: JobStore, hold) -> None:
    holder = hold()
    jobs = [store.submit(command(**wish)) for wish in ({"pool": "jobs"}, {"pool": "web"}, {"tag": "big"}, {"tag": "x"})]
    wanted = want(pool="jobs", tags=("small", "big"))
    assert ids(claim(store, holder, wanted)) == [jobs[0], jobs[2]]
    assert claim(store, holder) == []


def test_priority_then_age_and_not_before_its_time(store: JobStore, hold) -> None:
    late, low, high, first = store.submit_many(
        [
            command(run_at=time.time() + 3600),
            command(priority=-1),
            command(priority=5),
            command(priority=5),
        ]
    )
    wanted = want(2)
    holder = hold()
    assert ids(claim(store, holder, wanted)) == [high, first]
    assert ids(claim(store, holder, wanted)) == [low]
    assert store.get(late).state is JobState.NEW


def test_places_of_destinations(store: JobStore, hold) -> None:
    local = [store.submit(command(destination="local")) for _ in range(3)]
    slurm = [store.submit(command(destination="slurm")) for _ in range(2)]
    unknown = store.submit(command(destination="nowhere"))
    routed = store.submit(command(kind="special"))
    unroutable = store.submit(command(kind="odd"))
    wanted = Wanted(
        places={"local": Place("local"), "slurm": Place("cluster"), "full": Place("other")},
        rooms={"local": 2, "cluster": 5, "other": 0},
        route=lambda given: replace(given, destination="slurm", tag="x") if given.kind == "special" else given,
        tags=("x",),
    )
    got = claim(store, hold(), wanted)
    assert ids(got) == [*local[:2], *slurm, routed]
    assert [each.attempt.destination for each in got] == ["local", "local", "slurm", "slurm", "slurm"]
    assert [each.attempt.runner for each in got] == ["local", "local", "cluster", "cluster", "cluster"]
    assert store.get(unknown).state is store.get(unroutable).state is JobState.NEW


def test_taking_is_starting_where_that_is_so(store: JobStore, hold) -> None:
    store.submit(command(destination="thread"))
    (claimed,) = claim(store, hold(), Wanted({"thread": Place("thread", immediate=True)}, {"thread": 1}))
    assert claimed.job.state is JobState.RUNNING
    assert claimed.job.started_at


def test_what_waits(store: JobStore) -> None:
    def waits(name: str = "main.jobs.1", wanted: Wanted = WANTED) -> bool:
        return wanted.promises(store.waiting(name, wanted))

    assert not waits()
    store.submit(command(handler="main.jobs.2"))
    assert not waits()
    assert waits("main.jobs.2")
    assert store.waiting("main.jobs.2", WANTED) == Waiting(unrouted=True)
    assert not waits("main.jobs.2", want(0))
    assert not waits("main.jobs.2", Wanted({"local": Place("local")}, {"local": 5}))
    store.submit(command(destination="local", user="ann"))
    two = Wanted({"local": Place("a"), "other": Place("b")}, {"a": 5, "b": 1})
    assert waits("main.jobs.1", two)
    assert store.waiting("main.jobs.1", two) == Waiting(frozenset({"local"}), several=True)


def test_users_take_turns(store: JobStore, hold) -> None:
    ann = [store.submit(command(user="ann")) for _ in range(10)]
    bob = [store.submit(command(user="bob")) for _ in range(2)]
    eve = store.submit(command(user="eve"))
    holder = hold()
    four = want(4)
    assert sorted(ids(claim(store, holder, four))) == sorted([ann[0], bob[0], eve, ann[1]])
    # Those who have less running come first.
    assert sorted(ids(claim(store, holder, four))) == sorted([bob[1], ann[2], ann[3], ann[4]])


def test_the_window_of_a_user(store: JobStore, hold) -> None:
    ann = [store.submit(command(user="ann")) for _ in range(10)]
    bob = store.submit(command(user="bob"))
    wanted = want(8, window=3)
    assert sorted(ids(claim(store, hold(), wanted))) == sorted([*ann[:3], bob])


def test_grab(store: JobStore, hold) -> None:
    jobs = store.submit_many([command() for _ in range(5)])
    assert ids(claim(store, hold(), want(grab=3))) == jobs[:3]


def test_runners_of_several_destinations_have_one_room(store: JobStore, hold) -> None:
    store.submit_many([command(destination=name) for name in ("a", "a", "b", "b")])
    wanted = Wanted({"a": Place("local"), "b": Place("local")}, {"local": 3})
    assert [each.attempt.destination for each in claim(store, hold(), wanted)] == ["a", "a", "b"]


def test_limits_hold_for_all_handlers_together(store: JobStore, hold) -> None:
    jobs = store.submit_many([command(user=user) for user in ("ann", "ann", "ann", "bob", "bob")])
    one, two = hold("main.jobs.1"), hold("main.jobs.2")
    limited = want(places={"local": Place("local", limit=3)})
    assert len(claim(store, one, want(2, places=limited.places))) == 2
    (third,) = claim(store, two, limited)
    assert claim(store, one, limited) == []
    assert store.stats().live == {"main.jobs.1": 2, "main.jobs.2": 1}
    finish(store, two, third)
    assert len(claim(store, one, limited)) == 1
    assert sum(store.get(job).state is JobState.NEW for job in jobs) == 1


def test_limits_of_a_user(store: JobStore, hold) -> None:
    ann = store.submit_many([command(user="ann") for _ in range(4)])
    bob = store.submit(command(user="bob"))
    holder = hold()
    here = want(places={"local": Place("local", user_limit=2)})
    assert sorted(ids(claim(store, holder, here))) == [*ann[:2], bob]
    assert claim(store, holder, here) == []
    assert ids(claim(store, holder, want(user_limit=3))) == [ann[2]]
    other = store.submit(command(user="ann", destination="b"))
    assert claim(store, holder, Wanted({"b": Place("b")}, {"b": 9}, user_limit=3)) == []
    assert ids(claim(store, holder, Wanted({"b": Place("b", user_limit=1)}, {"b": 9}))) == [other]


def test_an_urgent_job_comes_before_fairness(store: JobStore, hold) -> None:
    store.submit(command(user="bob"))
    urgent = store.submit(command(user="ann", priority=1))
    holder = hold()
    one = want(1)
    assert ids(claim(store, holder, one)) == [urgent]


def test_a_job_is_claimed_once(store: JobStore, hold) -> None:
    """Four handlers, each with a thread of its own, empty one queue."""
    wanted = want(3)
    holders = [hold(f"main.jobs.{index}") for index in range(4)]
    jobs = store.submit_many([command(user=f"u{index % 3}") for index in range(120)])
    got: list[int] = []

    def work(holder: object) -> None:
        while any(store.get(job).state is JobState.NEW for job in jobs[-6:]) or wanted.promises(
            store.waiting(holder.name, wanted)
        ):
            got.extend(ids(claim(store, holder, wanted)))

    threads = [threading.Thread(target=work, args=(holder,)) for holder in holders]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(got) == jobs


def test_a_job_that_ends_well(store: JobStore, hold) -> None:
    job = store.submit(command())
    holder = hold()
    (claimed,) = claim(store, holder)
    with store.turn(holder) as turn:
        turn.note([Note(claimed, JobState.RUNNING, external_id="17@5", data={"a": 1}, started_at=100.0)])
    now = store.get(job)
    assert (now.state, now.started_at) == (JobState.RUNNING, 100.0)
    assert finish(store, holder, claimed, Outcome(Ending.EXITED, 0, result={"n": 1}, finished_at=101.0)) == "ok"
    now = store.get(job)
    assert (now.state, now.exit_code, now.result, now.finished_at) == (JobState.OK, 0, {"n": 1}, 101.0)
    (attempt,) = store.attempts(job)
    assert (attempt.external_id, attempt.data, attempt.ending) == ("17@5", {"a": 1}, Ending.EXITED)
    assert finish(store, holder, claimed, FAILED) is None
    assert store.get(job).state is JobState.OK


def test_retries_back_off(store: JobStore, hold) -> None:
    job = store.submit(command(max_attempts=3, backoff=100.0, backoff_limit=150.0))
    holder = hold()
    pauses = []
    for _ in range(2):
        (claimed,) = claim(store, holder)
        assert finish(store, holder, claimed, FAILED) == "new"
        now = store.get(job)
        pauses.append(round(now.run_at - time.time()))
        assert (now.exit_code, now.finished_at, now.holder) == (None, None, None)
        assert claim(store, holder) == []
        hurry(store, job)
    (claimed,) = claim(store, holder)
    assert finish(store, holder, claimed, FAILED) == "error"
    assert pauses == [pytest.approx(100, abs=5), pytest.approx(150, abs=5)]
    assert [(each.number, each.exit_code) for each in store.attempts(job)] == [(1, 7), (2, 7), (3, 7)]
    assert len({each.dispatch_key for each in store.attempts(job)}) == 3
    assert store.get(job).exit_code == 7


def hurry(store: JobStore, job: int) -> None:
    """Let a job run now that would wait."""
    with store._writing() as do:
        do.all("UPDATE instar_job SET run_at = 0 WHERE id = :id", id=job)


@pytest.mark.parametrize(
    ("on_lost", "attempts", "state"),
    [("fail", 3, "lost"), ("hold", 3, "held"), ("retry", 2, "new"), ("retry", 1, "lost")],
)
def test_lost(store: JobStore, hold, on_lost: str, attempts: int, state: str) -> None:
    job = store.submit(command(on_lost=OnLost(on_lost), max_attempts=attempts, backoff=0.0))
    holder = hold()
    (claimed,) = claim(store, holder)
    assert finish(store, holder, claimed, LOST) == state
    assert store.get(job).error == "its shim was killed"
    (event,) = [each for each in store.events(job) if each.what == "lost"]
    assert (event.handler, event.epoch, event.attempt) == (holder.name, holder.epoch, 1)


def test_what_never_began_costs_no_attempt(store: JobStore, hold) -> None:
    job = store.submit(command())
    holder = hold()
    for number, ending in enumerate([Ending.NEVER_STARTED, Ending.RETURNED, Ending.RETURNED], 1):
        hurry(store, job)
        (claimed,) = claim(store, holder)
        assert claimed.attempt.number == number
        assert finish(store, holder, claimed, Outcome(ending)) == "new"
    hurry(store, job)
    (claimed,) = claim(store, holder)
    assert finish(store, holder, claimed, FAILED) == "error"


def test_refused_is_final(store: JobStore, hold) -> None:
    job = store.submit(command(max_attempts=5))
    holder = hold()
    (claimed,) = claim(store, holder)
    assert finish(store, holder, claimed, Outcome(Ending.REFUSED, error="no such partition")) == "error"
    assert store.get(job).error == "no such partition"


def test_a_later_holder_fences_the_earlier_one(store: JobStore, hold) -> None:
    jobs = store.submit_many([command(), command(), command()])
    zombie = hold()
    one = want(1)
    (held,) = claim(store, zombie, one)
    successor = hold(elsewhere="2")
    with store.turn(successor) as turn:
        (adopted,) = turn.adopt()
    assert adopted.job.id == held.job.id
    assert adopted.attempt == held.attempt
    assert successor.epoch > zombie.epoch
    for act in (
        lambda turn: turn.claim(one),
        lambda turn: turn.finish([(held, DONE)]),
        lambda turn: turn.note([Note(held, JobState.RUNNING)]),
        lambda turn: turn.adopt(),
    ):
        with pytest.raises(Fenced), store.turn(zombie) as turn:
            act(turn)
    assert [store.get(job).state for job in jobs] == ["dispatching", "new", "new"]
    assert finish(store, successor, adopted) == "ok"
    (event,) = store.events(jobs[0])
    assert (event.what, event.epoch) == ("adopted", successor.epoch)


def test_a_turn_that_fails_writes_nothing(store: JobStore, hold) -> None:
    job = store.submit(command())
    holder = hold()
    with pytest.raises(ZeroDivisionError), store.turn(holder) as turn:
        assert turn.claim(WANTED)
        raise ZeroDivisionError
    assert store.get(job).state is JobState.NEW
    assert len(claim(store, holder)) == 1


def test_cancel_what_waits(store: JobStore, hold) -> None:
    job = store.submit(command())
    assert store.cancel(job).state is JobState.CANCELLED
    assert store.cancel(job).state is JobState.CANCELLED
    assert claim(store, hold()) == []


def test_cancel_what_runs(store: JobStore, hold) -> None:
    job, other = store.submit_many([command(max_attempts=3), command()])
    holder = hold()
    claimed, _ = claim(store, holder)
    assert store.cancel(job).cancelling
    store.cancel(job)
    assert store.in_hand(holder.name) == {job: True, other: False}
    assert finish(store, holder, claimed, FAILED) == "cancelled"
    assert [each.what for each in store.events(job)] == ["cancel requested"]
    assert not store.get(job).cancelling
    assert not store.get(other).cancelling


def test_a_job_may_end_well_although_it_was_to_be_cancelled(store: JobStore, hold) -> None:
    job = store.submit(command())
    holder = hold()
    (claimed,) = claim(store, holder)
    store.cancel(job)
    assert finish(store, holder, claimed, DONE) == "ok"


def test_retry_by_hand(store: JobStore, hold) -> None:
    job = store.submit(command())
    holder = hold()
    with pytest.raises(JobError, match="it is new"):
        store.retry(job)
    (claimed,) = claim(store, holder)
    with pytest.raises(JobError, match="it is dispatching"):
        store.retry(job)
    finish(store, holder, claimed, FAILED)
    assert store.retry(job).state is JobState.NEW
    (again,) = claim(store, holder)
    assert again.attempt.number == 2
    finish(store, holder, again)
    assert [each.number for each in store.attempts(job)] == [1, 2]
    with pytest.raises(JobError, match="it is ok"):
        store.retry(job)


def test_dedupe(store: JobStore, hold) -> None:
    first = store.submit(command(dedupe_key="nightly"))
    assert store.submit(command(dedupe_key="nightly")) == first
    one, same, other = store.submit_many([command(dedupe_key="a"), command(dedupe_key="a"), command()])
    assert one == same == store.submit(command(dedupe_key="a"))
    assert len({first, one, other}) == 3
    holder = hold()
    for claimed in claim(store, holder):
        finish(store, holder, claimed)
    assert store.submit(command(dedupe_key="nightly")) == first
    assert first in [int(key.split("-")[1]) for key in store.purge(older=-1)]
    assert store.submit(command(dedupe_key="nightly")) > first


def test_progress(store: JobStore, hold) -> None:
    job = store.submit(command())
    assert not store.set_progress(job, {"done": 1})
    holder = hold()
    (claimed,) = claim(store, holder)
    with store.turn(holder) as turn:
        turn.note([Note(claimed, progress={"done": 1, "total": 4})])
    assert store.get(job).progress == {"done": 1, "total": 4}
    assert store.set_progress(job, {"done": 2}, attempt=1)
    assert not store.set_progress(job, {"done": 9}, attempt=2)
    assert store.get(job).progress == {"done": 2}


def test_let_go_is_seen_by_the_successor(store: JobStore, hold) -> None:
    store.submit(command())
    holder = hold()
    (claimed,) = claim(store, holder)
    with store.turn(holder) as turn:
        turn.note([Note(claimed, let_go=True)])
    holder.close()
    with store.turn(hold()) as turn:
        (adopted,) = turn.adopt()
    assert adopted.attempt.let_go


def test_wait(store: JobStore, hold) -> None:
    job = store.submit(command())
    with pytest.raises(WaitTimeoutError, match="it is new"):
        store.wait(job, 0.01)
    holder = hold()
    (claimed,) = claim(store, holder)
    seen: list[JobState] = []
    looked = threading.Event()

    def watch(now: object) -> None:
        seen.append(now.state)
        looked.set()

    def end() -> None:
        looked.wait()
        finish(store, holder, claimed)

    thread = threading.Thread(target=end)
    thread.start()
    assert store.wait(job, 60, watch=watch).state is JobState.OK
    thread.join()
    assert seen[0] is JobState.DISPATCHING
    stop = threading.Event()
    stop.set()
    assert store.wait(store.submit(command()), stop=stop).state is JobState.NEW


def test_no_such_job(store: JobStore) -> None:
    for look in (store.get, store.cancel, store.retry, store.attempts, store.wait):
        with pytest.raises(NoSuchJobError, match="cannot find the job 4711"):
            look(4711)
    assert store.events(4711) == []


def test_find(store: JobStore, hold) -> None:
    jobs = store.submit_many([command(kind="a", user="ann"), command(kind="b"), command(kind="b", handler="main.x.1")])
    claim(store, hold())
    assert [job.id for job in store.find()] == jobs[::-1]
    assert [job.id for job in store.find(kind="b", before=jobs[2])] == [jobs[1]]
    assert [job.id for job in store.find(user="ann")] == [jobs[0]]
    assert [job.id for job in store.find(states=["new", JobState.OK])] == [jobs[2]]
    assert [job.id for job in store.find(handler="main.x.1")] == [jobs[2]]
    assert [job.id for job in store.find(handler="main.jobs.1", limit=1)] == [jobs[1]]


def test_reassign_what_waits(store: JobStore, hold) -> None:
    jobs = store.submit_many([command(handler="main.gone.1"), command(handler="main.gone.1"), command()])
    assert store.reassign("main.gone.1", "").waiting == 2
    assert ids(claim(store, hold())) == jobs
    assert [each.what for each in store.events(jobs[0])] == ["reassigned"]
    assert store.events(jobs[2]) == []


def test_reassign_what_runs(store: JobStore, hold) -> None:
    job = store.submit(command(handler="main.gone.1"))
    gone, heir = hold("main.gone.1"), hold("main.jobs.1")
    (claimed,) = claim(store, gone)
    with pytest.raises(JobError, match="name a handler"):
        store.reassign("main.gone.1", live=True)
    with pytest.raises(JobError, match="already"):
        store.reassign("main.gone.1", "main.gone.1")
    moved = store.reassign("main.gone.1", "main.jobs.1", live=True)
    assert (moved.waiting, moved.live) == (0, 1)
    with pytest.raises(Fenced):
        finish(store, gone, claimed)
    with store.turn(heir) as turn:
        (adopted,) = turn.adopt()
    assert adopted.attempt == claimed.attempt
    assert finish(store, heir, adopted) == "ok"
    assert store.get(job).holder == "main.jobs.1"
    # A later holder of the name begins above the epoch that was taken away.
    gone.close()
    again = hold("main.gone.1")
    store.submit(command(handler="main.gone.1"))
    assert len(claim(store, again)) == 1


def test_free(store: JobStore, hold) -> None:
    jobs = store.submit_many([command(handler="main.gone.1"), command(handler="main.jobs.2"), command()])
    with store.turn(hold("main.jobs.2")) as turn:
        turn.beat()
        turn.beat()
    (name,) = store.handlers()
    assert name == "main.jobs.2"
    assert store.free(after=3600) == 0
    with store._writing() as do:
        do.all("UPDATE instar_job SET run_at = run_at - 100")
    assert store.free(after=90) == 1
    assert ids(claim(store, hold())) == [jobs[0], jobs[2]]
    assert store.events(jobs[0])[0].what == "freed"


def test_purge(store: JobStore, hold) -> None:
    _, failed, waiting = store.submit_many([command(), command(max_attempts=2, backoff=0.0), command(run_at=9e9)])
    holder = hold()
    claims = claim(store, holder)
    finish(store, holder, claims[0])
    finish(store, holder, claims[1], FAILED)
    (again,) = claim(store, holder)
    finish(store, holder, again, FAILED)
    assert store.purge(older=3600) == []
    assert store.purge(older=-1, states=["ok"]) == [claims[0].attempt.dispatch_key]
    assert store.purge(older=-1) == [claims[1].attempt.dispatch_key, again.attempt.dispatch_key]
    assert store.get(waiting)
    with pytest.raises(JobError, match="they have not ended"):
        store.purge(older=0, states=["running"])
    with pytest.raises(NoSuchJobError):
        store.attempts(failed)


def test_stats(store: JobStore, hold) -> None:
    assert store.stats().oldest_wait is None
    store.submit_many([command(), command(), command(handler="main.x.1"), command(run_at=9e9)])
    claim(store, hold(), want(1))
    stats = store.stats()
    assert stats.states == {"dispatching": 1, "new": 3}
    assert stats.waiting == {"": 2, "main.x.1": 1}
    assert stats.live == {"main.jobs.1": 1}
    assert stats.destinations == {"local": 1}
    assert 0 <= stats.oldest_wait < 60


@pytest.mark.parametrize(
    "work", ["", "[]", "no json", '{"command": "ls", "timeout": "long"}', '{"args": 5, "new": [1]}', "null"]
)
def test_what_others_have_stored_stops_nobody(store: JobStore, hold, work: str) -> None:
    with store._writing() as do:
        columns = "INSERT INTO instar_job (work, created_at, on_lost, handler)"
        ((job,),) = do.all(f"{columns} VALUES (:work, 0, 'odd', '_null_') RETURNING id", work=work)
    good = store.submit(command())
    holder = hold()
    claims = claim(store, holder)
    assert ids(claims) == [job, good]
    assert claims[0].job.submission == Submission(handler="_null_", destination="local", run_at=0)
    refused = Outcome(Ending.REFUSED, error="it has no command")
    assert finish(store, holder, claims[0], refused) == "error"


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"command": ()}, "either a command or a target"),
        ({"command": "ls -l"}, "list of words"),
        ({"target": "a:b"}, "only one of them"),
        ({"command": (), "target": "os.system"}, "module:function"),
        ({"command": ("a\0b",)}, "zero byte"),
        ({"command": ("",)}, "empty"),
        ({"command": (1,)}, "texts"),
        ({"args": (1,)}, "are for a target"),
        ({"command": (), "target": "a:b", "args": (object(),)}, "JSON"),
        ({"command": (), "target": "a:b", "kwargs": {1: 2}}, "mapping"),
        ({"params": {"a": float("nan")}}, "JSON"),
        ({"timeout": -1}, "timeout must be"),
        ({"run_at": "tomorrow"}, "run_at must be"),
        ({"max_attempts": 0}, "at least 1"),
        ({"priority": 1.5}, "whole number"),
        ({"on_lost": "explode"}, "known are fail, retry, hold"),
        ({"handler": "x" * 201}, "too long"),
        ({"env": {"A=B": "c"}}, "environment"),
    ],
)
def test_what_is_no_job(store: JobStore, changes: dict, text: str) -> None:
    with pytest.raises(SubmissionError, match=text):
        store.submit_many([command(), Submission(**{"command": ("true",), **changes})])
    assert store.find() == []


def test_ends_are_written_and_jobs_taken_with_one_wait(store: JobStore, hold) -> None:
    holder = hold()
    done, failed, third = store.submit_many([command(), command(max_attempts=2, backoff=0.0), command()])
    first = claim(store, holder, want(2))
    with store.turn(holder) as turn:
        ended = turn.send_ends([(first[0], DONE)])
        claims = turn.claim(want(1))
        assert ended() == {done: JobState.OK}
    assert ids(claims) == [third]
    with store.turn(holder) as turn:
        # Once more, and at once: its first attempt is among the earlier ones before the second begins.
        ended = turn.send_ends([(first[1], FAILED), (claims[0], DONE)])
        again = turn.claim(want(1))
        assert ended() == {failed: JobState.NEW, third: JobState.OK}
    assert [(each.job.id, each.attempt.number) for each in again] == [(failed, 2)]
    assert [each.exit_code for each in store.attempts(failed)] == [7, None]
