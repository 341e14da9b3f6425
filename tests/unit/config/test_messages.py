from __future__ import annotations

from collections.abc import Callable

import pytest

from instar.config import Config

Errors = Callable[..., list[str]]
Read = Callable[..., Config]


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("[web]\nwokers = 3", "[web] wokers is not a known key; did you mean workers?"),
        ("[web]\nkeep-alive = 3", "[web] keep-alive is not a known key; did you mean keep_alive?"),
        ("[web]\nname = 'x'", "[web] name is not a known key; it belongs in [app]"),
        ("[web]\nxyzzy = 3", "[web] xyzzy is not a known key"),
        ("[wbe]\nworkers = 3", "[wbe] is not a known table; did you mean [web]?"),
        ("[pools.pool]\ncount = 3", "[pools] is not a known table"),
        ("[cron]\nat = 'x'", "[cron] is not a known table"),
        ("workers = 3", "workers stands outside of any table; it is a key of [web]"),
        ("web = 3", "[web] must be a table, not 3"),
        ("[web]\nworkers = 'four'", '[web] workers must be a whole number, not "four"'),
        ("[web]\nworkers = '4'", '[web] workers must be a whole number, not "4"'),
        ("[web]\nworkers = -1", "[web] workers must be at least 0, not -1"),
        ("[web]\nworkers = true", "[web] workers must be a whole number, not true"),
        ("[web]\naccess_log = 'yes'", '[web] access_log must be true or false, not "yes"'),
        (
            "[web]\nengine = 'grainan'",
            '[web] engine must be granian, uvicorn, gunicorn, uwsgi or command, not "grainan"; did you mean granian?',
        ),
        ("[web]\nbind = ['localhost:80', 3]", "[web] bind, entry 2 must be a text in quotes, not 3"),
        ("[web]\nbind = []", "[web] bind must not be empty"),
        (
            "[web]\nmax_memory = 'lots'",
            '[web] max_memory must be a number of bytes, or a text such as "512K", "300M" or "2G"',
        ),
        ("[health]\npath = 'healthz'", '[health] path must be a path that begins with "/", not "healthz"'),
        (
            "[health]\nstatus = '2xx'",
            '[health] status must be status codes such as 200, "200-399" or [200, "301-302"]',
        ),
        ("[health]\ntimeout = 0", "[health] timeout must be more than 0, not 0"),
        ("[restart]\nboot_nice = 20", "[restart] boot_nice must be at most 19, not 20"),
        ("[restart.canary]\nshare = 1.0", "[restart.canary] share must be less than 1, not 1.0"),
        (
            "[restart.canary]\nnetworks = ['10.0.0.1']",
            '[restart.canary] networks, entry 1 must have a prefix length; for one client write "10.0.0.1/32"',
        ),
        (
            "[restart.canary]\nnetworks = ['10.0.0.1/8']",
            '[restart.canary] networks, entry 1 must not have bits set behind its prefix; write "10.0.0.0/8"',
        ),
        (
            "[restart]\nbefore = 'python manage.py migrate'",
            '[restart] before must be a list of words, no shell runs it; write ["python", "manage.py", "migrate"]',
        ),
        (
            "[restart]\nafter = [{comand = ['x'], command = ['x']}]",
            "[restart] after, entry 1: comand is not a known key; did you mean command?",
        ),
        ("[restart]\nafter = [{timeout = 3}]", "[restart] after, entry 1: command is missing"),
        ("[services.mail]\nchdir = '.'", "[services.mail] command is missing"),
        (
            "[services.mail]\ncommand = ['x']\nrestart = 'alway'",
            '[services.mail] restart must be always, on-failure or never, not "alway"; did you mean always?',
        ),
        ("[handlers]\nmail = 3", "[handlers.mail] must be a table, not 3"),
        ("[handlers.mail]\nconut = 3", "[handlers.mail] conut is not a known key; did you mean count?"),
        ("[handlers.mail]\ncount = -1", "[handlers.mail] count must be at least 0, not -1"),
        ("[handlers.mail]\ntarget = 'm'", '[handlers.mail] target must be "module:attribute"; did you mean "m:app"?'),
        (
            "[handlers.mail]\ncommand = 'a b'",
            '[handlers.mail] command must be a list of words, no shell runs it; write ["a", "b"]',
        ),
        (
            "[handlers.mail]\nhandover = 'hot'",
            '[handlers.mail] handover must be auto, warm or cold, not "hot"',
        ),
        (
            "[handlers.mail]\ncpu_max = '2'",
            "[handlers.mail] cpu_max must be a number of processor cores such as 0.5 or 2",
        ),
        ("[handlers.mail]\ncpu_max = -1", "[handlers.mail] cpu_max must be at least 0, not -1"),
        (
            "[handlers.mail]\nname = '{pol}.1'",
            (
                '[handlers.mail] name has the placeholder "{pol}"; '
                "known are {server_name}, {pool}, {index} and {index0}; did you mean {pool}?"
            ),
        ),
        ("[handlers.mail]\nname = '{pool'", '[handlers.mail] name has a brace that stands alone: "{pool"'),
        ("[app]\nhandler_name = ''", "[app] handler_name must not be empty"),
        ("[web]\ncpu_max = 1", "[web] cpu_max is not a known key; it belongs in [handlers.POOL]"),
        (
            "[handlers.'a b']\ntarget = 'm:a'",
            '[handlers] has a pool with the name "a b"; use letters, digits, "-", "_" and "."',
        ),
        ("[services]\nmail = 3", "[services.mail] must be a table, not 3"),
        ("[app]\nlazy = 1", '[app] lazy must be "auto", true or false, not 1'),
        ("[app]\ntarget = 'mysite/wsgi.py'", '[app] target must name a module, not a file; write "mysite.wsgi:app"'),
        ("[app]\ntarget = 'mysite.app'", '[app] target must be "module:attribute"; did you mean "mysite:app"?'),
        (
            "[app]\ntarget = 'm:create_app()'",
            '[app] target must not end with "()"; write target = "m:create_app" and factory = true',
        ),
    ],
)
def test_one_sentence(errors: Errors, text: str, sentence: str) -> None:
    assert errors(text) == [f"cannot read instar.toml: {sentence}"]


def test_all_errors_are_told_one_a_line(errors: Errors) -> None:
    lines = errors("[web]\nwokers = 1\nthreads = 'x'\n[log]\nlevel = 'loud'\n")
    assert len(lines) == 3
    assert all(line.startswith("cannot read instar.toml: [") for line in lines)


def test_values_that_may_be_secret_are_not_repeated(errors: Errors) -> None:
    text = "[app]\nenv = {PASSWORD = ['hunter2']}\n[health]\nheaders = {Authorization = 77123}\n"
    text += "[services.x]\ncommand = ['x']\nenv = ['hunter2']\n"
    lines = errors(text)
    assert len(lines) == 3
    assert "hunter2" not in "".join(lines)
    assert "77123" not in "".join(lines)


def test_an_option_is_not_blamed_on_the_file(errors: Errors) -> None:
    assert errors("[app]\ntarget = 'm:a'", overrides={"web.workers": -2}) == [
        "cannot use the command line: [web] workers must be at least 0, not -2"
    ]


def test_toml_errors_have_a_line(errors: Errors) -> None:
    (line,) = errors("[web]\nbind = \n")
    assert line.startswith("cannot read instar.toml: invalid value")
    assert "line 2" in line
