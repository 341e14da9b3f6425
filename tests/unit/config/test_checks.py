from __future__ import annotations

from collections.abc import Callable

import pytest

from instar.config import Config

Errors = Callable[..., list[str]]
Read = Callable[..., Config]
APP = "[app]\ntarget = 'm:a'\n"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "[app] target is missing"),
        (APP + "[web]\ntls_cert = 'x'", "[web] tls_cert needs [web] tls_key"),
        (APP + "[web]\ntls_key = 'x'", "[web] tls_key needs [web] tls_cert"),
        (APP + "[web]\ntls_key_password_env = 'X'", "[web] tls_key_password_env needs [web] tls_key"),
        (APP + "[web]\nbind = ['h:1', 'h:1']", "[web] bind has h:1 twice"),
        (APP + "[web]\nbind = ['127.0.0.1:1', '[::]:1']", "127.0.0.1:1, which [::]:1 already covers"),
        (APP + "[web]\nbind = ['unix:a', 'unix:./a']", "twice"),
        (APP + "[web]\nbind = ['uwsgi:unix:a', 'unix:a']", "twice"),
        (APP + "[web]\nbind = 'uwsgi:[::]:3031'", "name the proxies in [web.uwsgi] allow"),
        (APP + "interface = 'asgi'\n[web]\nbind = 'uwsgi:127.0.0.1:3031'", "can't carry ASGI"),
        ("[web]\nengine = 'command'", "needs [web] command"),
        (APP + "[web]\ncommand = ['x']", 'only used by engine "command"'),
        (APP + "[web]\nengine = 'uvicorn'\nhttp = '2'", 'http = "2" needs engine "granian"'),
        (APP + "[web]\nengine = 'uwsgi'\nhttp = '2'", 'http = "2" needs engine "granian"'),
        (APP + "[web]\nengine = 'uwsgi'\ntls_cert = 'x'\ntls_key = 'y'", "leave TLS to the proxy before it"),
        (APP + "interface = 'asgi'\n[web]\nengine = 'uwsgi'", 'engine "uwsgi" serves WSGI'),
        (APP + "[web]\nworker_class = 'sync'", 'only used by engine "gunicorn"'),
        (APP + "[web]\nworkers = 5\nmax_workers = 4", "must not be more than [web] max_workers (4)"),
        (APP + "[web]\nbind = 'unix:a'\n[restart.canary]\nshare = 0.1", "[restart.canary] share needs a TCP bind"),
        (
            APP + "[web]\nbind = 'unix:a'\n[restart.canary]\nnetworks = '10.0.0.0/8'",
            "[restart.canary] networks needs a TCP bind",
        ),
        (APP + "[web]\nsteering = 'shared'\n[restart.canary]\nshare = 0.1", "needs steered sockets"),
    ],
)
def test_refused(errors: Errors, text: str, words: str) -> None:
    (line,) = errors(text)
    assert line.startswith("cannot use instar.toml: ")
    assert words in line


@pytest.mark.parametrize(
    "text",
    [
        APP + "[web]\nbind = ['127.0.0.1:0', '127.0.0.1:0']",
        APP + "[web]\nbind = ['0.0.0.0:1', '[::1]:1']",
        APP + "[web]\ntls_cert = 'a'\ntls_key = 'b'",
        "[web]\nengine = 'command'\ncommand = ['x']",
        APP + "[web]\nbind = ['127.0.0.1:0', 'uwsgi:127.0.0.1:0', 'uwsgi:unix:a']",
        APP + "[web]\nbind = 'uwsgi:0.0.0.0:1'\nuwsgi.allow = '10.0.0.0/8'",
    ],
)
def test_accepted_without_a_word(read: Read, text: str) -> None:
    assert read(text).warnings() == ()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[restart]\ndrain_timeout = 30", "drain_timeout (30 s) should be longer than [web] keep_alive (30 s)"),
        ("[restart]\nstream_grace = 90", "stream_grace should be shorter"),
        ("[restart]\nboot_timeout = 1", "[health] timeout should be shorter"),
        ("[web]\ntrusted_proxies = '10.0.0.1'\n[restart.canary]\nnetworks = '10.0.0.0/8'", "which is the proxy's"),
        ("[web]\nbind = ['unix:a', 'h:1']\n[restart.canary]\nshare = 0.1", "no effect on clients of UNIX sockets"),
        ("[web]\nmax_requests_jitter = 3", "no effect without [web] max_requests"),
        ("[web]\nbind = '[::]:1'\ntrusted_proxies = '*'", "lets every client forge"),
        ("[web]\nengine = 'command'\ncommand = ['x']\nstatic = {'/s' = 's'}", "[web] static has no effect"),
    ],
)
def test_warned(read: Read, text: str, words: str) -> None:
    (line,) = read(APP + text).warnings()
    assert words in line


@pytest.mark.parametrize(
    ("web", "words"),
    [
        ("", "granian"),
        ("bind = 'uwsgi:unix:a'", "uwsgi protocol"),
        ("bind = ['uwsgi:unix:a', 'unix:b']\nengine = 'uvicorn'", "uvicorn and uwsgi protocol"),
        ("bind = ['uwsgi:unix:a', 'unix:b']\nengine = 'uwsgi'", "uwsgi"),
    ],
)
def test_what_serves_is_told(read: Read, web: str, words: str) -> None:
    assert read(f"{APP}[web]\n{web}").web.servers == words
