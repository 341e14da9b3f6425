from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from instar.config import Config
from instar.config.handlers import HANDLER_NAME, expand_name

Errors = Callable[..., list[str]]
Read = Callable[..., Config]
APP = "[app]\ntarget = 'm:a'\n"
MAIL = "[handlers.mail]\ntarget = 'm:work'\n"


def test_defaults(read: Read) -> None:
    pool = read(APP + MAIL).handlers["mail"]
    assert (pool.count, pool.warm, pool.stop_timeout, pool.kill_timeout, pool.keep_name) == (1, True, 30.0, 5.0, False)
    assert (pool.tags, pool.env, pool.memory_max, pool.cpu_max) == ((), {}, 0, 0.0)
    assert pool.work == {"target": "m:work"}


def test_all_keys(read: Read, project: Path) -> None:
    config = read(
        APP
        + "[handlers.mail]\ncount = 2\nscript = 'mail.py'\nhandover = 'cold'\nstop_timeout = '2m'\nkill_timeout = 1\n"
        "keep_name = true\nenv = {A = 'b'}\ntags = 'slow'\nmemory_max = '1G'\ncpu_max = 0.5\nbackoff = 1\n"
        "backoff_limit = 2\nname = 'mailer{index0}'"
    )
    pool = config.handlers["mail"]
    assert pool.script == project / "mail.py"
    assert (pool.stop_timeout, pool.tags, pool.memory_max, pool.cpu_max) == (120.0, ("slow",), 1 << 30, 0.5)
    assert config.handler_names("mail") == ["mailer0", "mailer1"]
    assert config.warnings() == ()


@pytest.mark.parametrize(
    ("work", "handover", "warm"),
    [
        ("target = 'm:a'", "auto", True),
        ("target = 'm:a'", "cold", False),
        ("target = 'm:a'", "warm", True),
        ("script = 'a.py'", "auto", False),
        ("script = 'a.py'", "warm", True),
        ("command = ['a']", "auto", False),
        ("command = ['a']", "cold", False),
    ],
)
def test_targets_are_warm_and_programs_cold(read: Read, work: str, handover: str, warm: bool) -> None:
    assert read(APP + f"[handlers.x]\n{work}\nhandover = '{handover}'").handlers["x"].warm is warm


@pytest.mark.parametrize(
    ("template", "names"),
    [
        ("{server_name}.{pool}.{index}", ["shop.mail.1", "shop.mail.2"]),
        ("{pool}_{index0}", ["mail_0", "mail_1"]),
        ("h{index:02}-{server_name}", ["h01-shop", "h02-shop"]),
        ("{index0:03}", ["000", "001"]),
    ],
)
def test_names_follow_the_template(read: Read, template: str, names: list[str]) -> None:
    head = f"[app]\nname = 'shop'\ntarget = 'm:a'\nhandler_name = '{template}'\n"
    assert read(head + MAIL + "count = 2").handler_names("mail") == names
    own = read("[app]\nname = 'shop'\ntarget = 'm:a'\n" + MAIL + f"count = 2\nname = '{template}'")
    assert own.handler_names("mail") == names


@given(st.integers(0, 50), st.integers(0, 50))
def test_resizing_keeps_the_surviving_names(before: int, after: int) -> None:
    def names(count: int) -> list[str]:
        return [expand_name("{pool}.{index}", server_name="s", pool="p", index=i) for i in range(1, count + 1)]

    small = min(before, after)
    assert names(before)[:small] == names(after)[:small]
    assert all(HANDLER_NAME.fullmatch(name) for name in names(before))


def test_values_of_placeholders_are_not_expanded_again() -> None:
    assert expand_name("{server_name}", server_name="{pool}", pool="x", index=1) == "{pool}"


def test_queue_names_are_pools_and_names(read: Read) -> None:
    config = read(
        APP + MAIL + "count = 2\n[handlers.one]\nname = '{pool}'\ntarget = 'm:a'\n[handlers.none]\ncount = 0\n"
        "command = ['x']"
    )
    assert config.queue_names() == ["mail", "main.mail.1", "main.mail.2", "one", "none"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            "[handlers.mail]",
            "[handlers.mail] needs one of target, script and command; only the pool of [jobs] may have none",
        ),
        (MAIL + "command = ['x']", "[handlers.mail] has target and command; keep one of them"),
        (MAIL + "script = 'x'\ncommand = ['x']", "has target and script and command; keep one"),
        ("[handlers.mail]\ncommand = ['x']\nhandover = 'warm'", 'handover "warm" needs target or script'),
        (MAIL + "count = 2\nname = '{pool}.x'", "several handlers with the name mail.x; use {index}"),
        (
            MAIL + "name = 'x{index}'\n[handlers.post]\ntarget = 'm:p'\nname = 'x{index}'",
            "[handlers.post] and [handlers.mail] would both have a handler x1; use {pool}",
        ),
        (MAIL + "name = '.{index}'", 'the name ".1"; a name has 1 to 100 letters'),
        (MAIL + "name = 'a/{index}'", 'the name "a/1"'),
        (MAIL + f"name = '{'x' * 99}{{index:02}}'", "a name has 1 to 100 letters"),
        (MAIL + "name = 'post'\n[handlers.post]\ntarget = 'm:p'", "the name post, which is that of a pool"),
        ("[handlers.a]\ntarget = 'm:a'", "the name main.a.1, which instar gives to a process of its own"),
        ("[handlers.web]\ntarget = 'm:a'\nname = '{pool}.{index}'", "the name web.1, which instar gives"),
        (MAIL + "name = 'zygote'", "the name zygote, which instar gives"),
    ],
)
def test_refused(errors: Errors, text: str, words: str) -> None:
    (line,) = errors(APP + text)
    assert line.startswith("cannot use instar.toml: [handlers.")
    assert words in line


def test_warned_of_a_limit_below_the_first_pause(read: Read) -> None:
    (line,) = read(APP + MAIL + "backoff = 60").warnings()
    assert line.startswith("[handlers.mail] backoff should not be longer")


def test_a_pinned_script_stays_with_its_release(read: Read, project: Path) -> None:
    (project / "r1").mkdir()
    (project / "current").symlink_to("r1")
    text = "[app]\ntarget = 'm:a'\nchdir = 'current'\n[handlers.x]\nscript = 'current/x.py'\n" + MAIL
    pinned = read(text).pinned()
    assert pinned.handlers["x"].script == project / "r1/x.py"
    assert pinned.handlers["mail"].script is None


def test_variables_stay_out_of_the_representation(read: Read) -> None:
    assert "hunter2" not in repr(read(APP + MAIL + "env = {A = 'hunter2'}"))
