"""What uWSGI's options mean: the recipe's own files, then one part after the other."""

from __future__ import annotations

from pathlib import Path

import pytest

from instar.config import Config
from instar.config.formats.uwsgi import Surroundings, read, read_command_line
from instar.errors import ConfigError
from instar.uwsgi.loading import BUILDER
from instar.uwsgi.model import Farm, Hook, Instance, Router, Touch, ZergPool
from instar.uwsgi.translate import translate


def load(folder: Path, name: str) -> Instance:
    around = Surroundings(environ={}, cwd=folder, uid=1000)
    return translate(read(name, surroundings=around), surroundings=around)


class TestRecipe:
    def test_pool(self, site: Path) -> None:
        pool = load(site / "vassals", "vassal-zergpool.yml")
        assert pool.config is None
        assert pool.pools == (ZergPool(site / "var/zerg/pool.sock", ("127.0.0.1:4001",)),)
        assert pool.routers == (Router("0.0.0.0:8080", ("127.0.0.1:4001",)),)

    def test_zergling(self, site: Path) -> None:
        instance = load(site / "vassals", "vassal-zergling.yml")
        fifos = [site / f"var/zerg/zergling-{name}.fifo" for name in ("new", "running", "old")]
        assert instance.fifos == tuple(fifos)
        assert instance.zerg == (site / "var/zerg/pool.sock",)
        assert instance.hooks == (
            Hook("accepting1-once", "spinningfifo", f"{fifos[0]} 1"),
            Hook("master-start", "unix_signal", "2 gracefully_kill_them_all"),
            Hook("master-start", "unix_signal", "15 gracefully_kill_them_all"),
        )
        assert instance.die_on_term

    def test_zergling_beside_another(self, site: Path) -> None:
        (site / "var/zerg/zergling-running.fifo").touch()
        instance = load(site / "vassals", "vassal-zergling.yml")
        assert instance.hooks[0] == Hook("accepting1-once", "writefifo", f"{site}/var/zerg/zergling-running.fifo 2q")

    def test_application(self, site: Path) -> None:
        config = load(site / "vassals", "vassal-zergling.yml").config
        assert config is not None
        app, web = config.app, config.web
        assert (app.name, app.target, app.factory) == (
            "vassal-zergling",
            "galaxy.webapps.galaxy.buildapp:uwsgi_app",
            True,
        )
        assert (app.chdir, app.pythonpath) == (site / "server", (site / "server/lib",))
        assert app.python == site / "server/.venv/bin/python"
        assert (web.bind, web.workers, web.threads) == ((), 2, 4)
        assert web.static == {
            "/static/style": site / "server/static/style/blue",
            "/static": site / "server/static",
        }

    def test_mules(self, site: Path) -> None:
        instance = load(site / "vassals", "vassal-zergling.yml")
        assert instance.farms == (Farm("job-handlers", (1, 2)),)
        assert [mule.name for mule in instance.mules] == ["main.job-handlers.1", "main.job-handlers.2"]
        assert {mule.script for mule in instance.mules} == {site / "server/lib/galaxy/main.py"}
        assert instance.config
        assert instance.config.handler_names("job-handlers") == ["main.job-handlers.1", "main.job-handlers.2"]

    def test_restarter_has_no_handlers(self, site: Path) -> None:
        instance = load(site, "config/galaxy-restarter.yml")
        assert (instance.mules, instance.farms) == ((), ())
        assert instance.config
        assert instance.config.handlers == {}
        assert instance.config.app.name == "galaxy-restarter"

    def test_server_name_of_the_galaxy_section(self, site: Path) -> None:
        file = site / "config/galaxy.yml"
        file.write_text(file.read_text() + "  server_name: blue\n")
        instance = load(site / "vassals", "vassal-zergling.yml")
        assert [mule.name for mule in instance.mules] == ["blue.job-handlers.1", "blue.job-handlers.2"]


def of(folder: Path, text: str, *, uid: int = 1000, name: str = "site.ini") -> Instance:
    """The instance that these lines describe."""
    (folder / name).write_text(f"[uwsgi]\n{text}")
    around = Surroundings(environ={}, cwd=folder, uid=uid)
    return translate(read(name, surroundings=around), surroundings=around)


def config_of(folder: Path, text: str, **more: int) -> Config:
    config = of(folder, text, **more).config
    assert config is not None
    return config


APP = "module = x:app\n"


class TestApplication:
    @pytest.mark.parametrize(
        ("lines", "target", "factory"),
        [
            ("module = x", "x:application", False),
            ("module = x.y:app", "x.y:app", False),
            ("module = x:make()", "x:make", True),
            ("wsgi = x\ncallable = app", "x:app", False),
            ("module = x\ncallable = make()", "x:make", True),
            ("module = x:app\nneed-app = true", "x:app", False),
            ("module = x:app\nneed-app = false", BUILDER, True),
            ("wsgi-file = app.py", BUILDER, True),
            ("mount = /x=app:app", BUILDER, True),
            ("module = x:app\nimport = first", BUILDER, True),
        ],
    )
    def test_target(self, tmp_path: Path, lines: str, target: str, factory: bool) -> None:
        app = config_of(tmp_path, f"{lines}\nhttp = :80").app
        assert (app.target, app.factory, app.interface) == (target, factory, "wsgi")

    def test_mounts(self, tmp_path: Path) -> None:
        instance = of(tmp_path, "mount = /a=x:app\nmount = host|/b=y.py\nmanage-script-name = 1\nhttp = :80\n")
        assert instance.application is not None
        assert instance.application.mounts == (("/a", "x:app"), ("host|/b", "y.py"))
        assert instance.application.manage_script_name
        assert not instance.application.native

    def test_process_options(self, tmp_path: Path) -> None:
        (tmp_path / "libs/one").mkdir(parents=True)
        config = config_of(
            tmp_path,
            APP + "http = :80\nchdir = app\nhome = venv\npp = lib\npythonpath = libs/*\nenv = A=1=2\nlazy-apps = true\n"
            "uid = www-data\ngid = 33\nprocesses = 3\nworkers = 4\n",
            uid=0,
        )
        app = config.app
        assert app.chdir == tmp_path / "app"
        assert app.python == tmp_path / "app/venv/bin/python"
        assert app.pythonpath == (tmp_path / "app/lib", tmp_path / "app/libs/one")
        assert (app.env, app.lazy, app.user, app.group) == ({"A": "1=2"}, True, "www-data", "33")
        assert (config.web.workers, config.web.threads) == (4, 1)

    def test_only_root_changes_the_user(self, tmp_path: Path) -> None:
        assert config_of(tmp_path, APP + "http = :80\nuid = www-data\n").app.user == ""

    def test_limits(self, tmp_path: Path) -> None:
        config = config_of(
            tmp_path,
            APP + "socket = :80\nharakiri = 30\nmax-requests = 5000\nmax-requests-delta = 50\nreload-on-rss = 200\n"
            "listen = 77\nworker-reload-mercy = 9\nreload-mercy = 8\nbuffer-size = 16384\nsocket-timeout = 7\n",
        )
        web = config.web
        assert (web.request_timeout, web.max_requests, web.max_requests_jitter) == (30, 5000, 50)
        assert (web.max_memory, web.backlog) == (200 << 20, 77)
        assert config.restart.drain_timeout == 9
        assert (web.uwsgi.buffer_size, web.uwsgi.socket_timeout, web.uwsgi.allow) == (16384, 7, ("*",))

    @pytest.mark.parametrize(
        ("lines", "threads"), [("", 1), ("threads = 4", 4), ("gevent = 10", 10), ("async = 100\nthreads = 2", 32)]
    )
    def test_threads(self, tmp_path: Path, lines: str, threads: int) -> None:
        assert config_of(tmp_path, APP + f"http = :80\n{lines}\n").web.threads == threads

    def test_static(self, tmp_path: Path) -> None:
        web = config_of(
            tmp_path,
            APP + "http = :80\nstatic-map = /s=static\nstatic-map = /s=other\nstatic-map2 = /media=files\n"
            "check-static = public\n",
        ).web
        assert web.static == {
            "/s": tmp_path / "static",
            "/media": tmp_path / "files/media",
            "/": tmp_path / "public",
        }

    def test_logs(self, tmp_path: Path) -> None:
        config = config_of(tmp_path, APP + "http = :80\nchdir = a\nlogto = log/x.log\ndisable-logging = true\n")
        assert (config.log.file, config.log.stdout, config.web.access_log) == (tmp_path / "log/x.log", False, False)
        assert config_of(tmp_path, APP + "http = :80\nchdir = a\nlogto2 = x\n").log.file == tmp_path / "a/x"

    def test_attached_daemons_are_services(self, tmp_path: Path) -> None:
        services = config_of(tmp_path, APP + "http = :80\nattach-daemon = redis-server --port 0\n").services
        assert services["daemon1"].command == ("/bin/sh", "-c", "exec redis-server --port 0")

    def test_settings_of_instar(self, tmp_path: Path) -> None:
        config = config_of(
            tmp_path,
            APP + "http = :80\ninstar.web.keep_alive = 5\n[instar]\nhealth.path = /up\nrestart.keep_old = 10m\n"
            'restart.before = [["true"]]\n',
        )
        assert (config.health.path, config.restart.keep_old, config.web.keep_alive) == ("/up", 600, 5)
        assert [hook.command for hook in config.restart.before] == [("true",)]

    @pytest.mark.parametrize(
        ("name", "text"),
        [
            ("s.yml", "instar:\n  health.path: /up\n  web.workers: 3\nuwsgi:\n  module: x:app\n  http: :80\n"),
            ("s.yml", "instar:\n  health: {path: /up}\n  web:\n    workers: 3\nuwsgi:\n  module: x:app\n  http: :80\n"),
            ("s.yml", "instar:\n  health.path: /up\n  web.workers: 3\nuwsgi:\n  module: x:app\n  http: :80\n  a: %n\n"),
            (
                "s.json",
                '{"uwsgi": {"module": "x:app", "http": ":80"}, "instar": {"health": {"path": "/up"}, "web.workers":3}}',
            ),
        ],
    )
    def test_section_instar(self, tmp_path: Path, name: str, text: str) -> None:
        (tmp_path / name).write_text(text)
        around = Surroundings(environ={}, cwd=tmp_path)
        config = translate(read(name, surroundings=around), surroundings=around).config
        assert config
        assert (config.health.path, config.web.workers) == ("/up", 3)

    def test_tables_of_the_section_are_added(self, tmp_path: Path) -> None:
        text = "uwsgi:\n  module: x:app\n  http: :80\n  static-map: /a=a\n  env: A=1\n"
        (tmp_path / "s.yml").write_text(text + "instar:\n  web: {static: {/b.c: d}}\n  app: {env: {B: 2}}\n")
        around = Surroundings(environ={}, cwd=tmp_path)
        config = translate(read("s.yml", surroundings=around), surroundings=around).config
        assert config
        assert config.web.static == {"/a": tmp_path / "a", "/b.c": tmp_path / "d"}
        assert config.app.env == {"A": "1", "B": "2"}

    def test_settings_of_the_command_line(self, tmp_path: Path) -> None:
        around = Surroundings(environ={}, cwd=tmp_path)
        arguments = [
            "--module",
            "x:app",
            "--http",
            ":80",
            "--set",
            "instar.health.path=/up",
            "--set",
            "instar.restart.keep_old=5m",
        ]
        config = translate(read_command_line(arguments, surroundings=around), surroundings=around).config
        assert config
        assert (config.health.path, config.restart.keep_old, config.app.name) == ("/up", 300, "uwsgi")

    def test_xml_has_one_section_only(self, tmp_path: Path) -> None:
        (tmp_path / "site.xml").write_text("<uwsgi><module>x:app</module><http>:80</http><app/></uwsgi>")
        around = Surroundings(environ={}, cwd=tmp_path)
        instance = translate(read("site.xml", surroundings=around), surroundings=around)
        assert instance.config
        assert instance.server_name == "main"

    def test_name(self, tmp_path: Path) -> None:
        assert config_of(tmp_path, APP + "http = :80\n").app.name == "site"
        instance = of(tmp_path, APP + "http = :80\n", name="-ä galaxy (1).ini")
        assert instance.config
        assert instance.config.app.name == "galaxy--1-"


class TestSockets:
    @pytest.mark.parametrize(
        ("lines", "binds"),
        [
            ("socket = 127.0.0.1:3031", ("uwsgi:127.0.0.1:3031",)),
            ("socket = :3031", ("uwsgi:0.0.0.0:3031",)),
            ("socket = run/x.sock", ("uwsgi:unix:{}/run/x.sock",)),
            ("socket = 127.0.0.1:1\nsocket = 127.0.0.1:2", ("uwsgi:127.0.0.1:1", "uwsgi:127.0.0.1:2")),
            ("uwsgi-socket = [::1]:1", ("uwsgi:[::1]:1",)),
            ("http-socket = :80", ("0.0.0.0:80",)),
            ("http = *:80", ("0.0.0.0:80",)),
            ("http11-socket = :80\nsocket = /x", ("0.0.0.0:80", "uwsgi:unix:/x")),
            ("protocol = http\nsocket = :80", ("0.0.0.0:80",)),
            ("zerg = pool\nsocket = 127.0.0.1:0", ()),
            ("zerg = pool\nsocket = 127.0.0.1:99", ("uwsgi:127.0.0.1:99",)),
        ],
    )
    def test_binds(self, tmp_path: Path, lines: str, binds: tuple[str, ...]) -> None:
        assert config_of(tmp_path, APP + lines).web.bind == tuple(bind.format(tmp_path) for bind in binds)

    def test_https(self, tmp_path: Path) -> None:
        instance = of(tmp_path, APP + "https = :443,a.pem,b.pem,HIGH\nhttp = :80\n")
        assert instance.config
        web = instance.config.web
        assert (web.bind, web.tls_cert, web.tls_key) == (
            ("0.0.0.0:443", "0.0.0.0:80"),
            tmp_path / "a.pem",
            tmp_path / "b.pem",
        )
        assert "TLS" in instance.warnings[0]

    def test_pools(self, tmp_path: Path) -> None:
        instance = of(
            tmp_path,
            "zerg-pool = a.sock:127.0.0.1:1,/run/x,[::1]:2\nzergpool = b.sock:/y\nhttp = :80\nhttp = :81\n"
            "http-to = 127.0.0.1:1\nhttp-to = /run/x\nlisten = 9\n",
        )
        assert instance.pools == (
            ZergPool(tmp_path / "a.sock", ("127.0.0.1:1", "unix:/run/x", "[::1]:2")),
            ZergPool(tmp_path / "b.sock", ("unix:/y",)),
        )
        nodes = ("127.0.0.1:1", "unix:/run/x")
        assert instance.routers == (Router("0.0.0.0:80", nodes), Router("0.0.0.0:81", nodes))
        assert (instance.backlog, instance.config) == (9, None)

    @pytest.mark.parametrize(
        ("value", "mode"),
        [
            ("chmod-socket = 660", 0o660),
            ("chmod = 0600", 0o600),
            ("chmod-socket =", 0o666),
            ("umask = 007", 0o770),
            ("", None),
        ],
    )
    def test_mode(self, tmp_path: Path, value: str, mode: int | None) -> None:
        instance = of(tmp_path, APP + "socket = x\n" + value)
        assert instance.socket_mode == mode
        assert instance.config
        assert instance.config.web.socket_mode == f"{mode or 0o660:o}"

    def test_owner(self, tmp_path: Path) -> None:
        lines = APP + "socket = x\nchown-socket = www-data:adm\n"
        assert config_of(tmp_path, lines, uid=0).web.socket_owner == "www-data:adm"
        assert config_of(tmp_path, lines).web.socket_owner == ""


class TestMules:
    LINES = APP + "http = :80\nmule = a.py\nmule = x.y:work\nmule =\nmule = b.py\nmules = 2\n"

    def test_outside_farms(self, tmp_path: Path) -> None:
        mules = of(tmp_path, self.LINES).mules
        assert [mule.name for mule in mules] == [f"main.mule.{number}" for number in range(1, 7)]
        assert [mule.script for mule in mules] == [tmp_path / "a.py", None, None, tmp_path / "b.py", None, None]
        assert [mule.target for mule in mules] == ["", "x.y:work", "", "", "", ""]

    def test_farms_name_their_mules(self, tmp_path: Path) -> None:
        instance = of(tmp_path, self.LINES + "farm = jobs:2,4\nfarm = mail:4,5\nserver-name = blue\n")
        assert [mule.name for mule in instance.mules] == [
            "blue.mule.1",
            "blue.jobs.1",
            "blue.mule.3",
            "blue.jobs.2",
            "blue.mail.2",
            "blue.mule.6",
        ]
        assert [mule.farms for mule in instance.mules] == [(), ("jobs",), (), ("jobs", "mail"), ("mail",), ()]

    def test_names_stay_in_the_configuration(self, tmp_path: Path) -> None:
        instance = of(tmp_path, self.LINES + "farm = jobs:2,4\nfarm = mail:4,5\nmule-reload-mercy = 12\n")
        config = instance.config
        assert config is not None
        assert config.handler_names("jobs") == ["main.jobs.1", "main.jobs.2"]
        assert config.handler_names("mail") == ["main.mail.2"]
        assert config.handler_names("mule") == ["main.mule.1", "main.mule.3", "main.mule.6"]
        assert {pool.stop_timeout for pool in config.handlers.values()} == {12}
        assert {pool.warm for pool in config.handlers.values()} == {False}


class TestControl:
    def test_hooks(self, tmp_path: Path) -> None:
        hooks = of(
            tmp_path,
            APP + "http = :80\nexec-asap = one\nhook-asap = print:two: 3\nhook-accepting = !exec:secret\n",
        ).hooks
        assert hooks == (
            Hook("asap", "print", "two: 3"),
            Hook("asap", "exec", "one"),
            Hook("accepting", "exec", "secret", secret=True),
        )

    def test_touches(self, tmp_path: Path) -> None:
        touches = of(
            tmp_path, APP + "http = :80\ntouch-reload = a\ntouch-chain-reload = /b\ntouch-exec = c echo x\n"
        ).touches
        assert touches == (Touch(tmp_path / "a", "r"), Touch(Path("/b"), "c"), Touch(tmp_path / "c", "exec:echo x"))

    def test_pidfiles(self, tmp_path: Path) -> None:
        files = of(tmp_path, APP + "http = :80\nchdir = a\npidfile = x\npidfile2 = y\n").pidfiles
        assert files == (tmp_path / "x", tmp_path / "a/y")

    def test_emperor(self, tmp_path: Path) -> None:
        around = Surroundings(environ={}, cwd=tmp_path)
        arguments = ["--emperor", "/v", "--emperor-wrapper", "/usr/bin/uwsgi"]
        instance = translate(read_command_line(arguments, surroundings=around), surroundings=around)
        assert (instance.emperor, instance.config) == (("/v",), None)


class TestRefused:
    @pytest.mark.parametrize(
        ("lines", "words"),
        [
            (APP, "neither socket, http nor zerg"),
            ("socket = :1", "it has a socket but no application"),
            ("mule = x.py", "it has mules but no application"),
            (APP + "socket = @abstract", "site.ini:3: socket: cannot listen"),
            (APP + "socket = =0", "shared sockets"),
            (APP + "socket = fd://3", "name the address"),
            (APP + "http = :http", "the port must be a number"),
            (APP + "https = :443", "ADDRESS,CERTIFICATE,KEY"),
            (APP + "socket = :1\nprotocol = fastcgi", "protocol = fastcgi"),
            (APP + "http = :80\nfarm = x", "NAME:1,2"),
            (APP + "http = :80\nmule = a.py\nfarm = x:1,2", "there is no mule 2, only 1"),
            (APP + "http = :80\nhook-asap = print", "ACTION:ARGUMENT"),
            (APP + "http = :80\ntouch-exec = x", "FILE ACTION"),
            (APP + "http = :80\nchmod-socket = rw", "no mode"),
            (APP + "http = :80\nserver-name = a b", 'server name "a b"'),
            (APP + "http = :80\nroute = ^/admin break:403", "cannot use route (site.ini:4)"),
            (APP + "http = :80\nchroot = /x", "sandboxing"),
            (APP + "http = :80\ninstar.web.workes = 3", "workes"),
        ],
    )
    def test_sentence(self, tmp_path: Path, lines: str, words: str) -> None:
        with pytest.raises(ConfigError) as error:
            of(tmp_path, lines)
        assert words in str(error.value)
        assert str(error.value).startswith("cannot ")

    def test_may_be_left_out(self, tmp_path: Path) -> None:
        lines = APP + "http = :80\nroute = x\nchroot = /x\ncache2 = name=x\ninstar.ignore = route, chroot cache2\n"
        assert of(tmp_path, lines).warnings == ()

    def test_switched_off(self, tmp_path: Path) -> None:
        assert of(tmp_path, APP + "http = :80\ngevent = 0\n").warnings == ()


class TestWarnings:
    def test_unsupported(self, tmp_path: Path) -> None:
        (text,) = of(tmp_path, APP + "http = :80\ncron = -1 x\ncron = -2 x\n").warnings
        assert text == "site.ini:4: cron has no effect: use a timer of systemd, cron, or a mule"

    def test_typo(self, tmp_path: Path) -> None:
        (text,) = of(tmp_path, APP + "http = :80\nproceses = 3\n").warnings
        assert text.endswith("did you mean processes?")

    def test_variables_of_the_file(self, tmp_path: Path) -> None:
        lines = APP + "http = :80\nthread = 3\nthreads = %(thread)\nproject = x\n"
        assert of(tmp_path, lines).warnings == ()
