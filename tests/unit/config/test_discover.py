from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from instar.config import load
from instar.config.discover import Candidate, discover
from instar.config.template import render


def write(root: Path, **files: str) -> None:
    """Modules by path, with `___` for `/`."""
    for name, text in files.items():
        path = root / (name.replace("___", "/") + ".py")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def best(root: Path) -> Candidate:
    return discover(root).candidates[0]


@pytest.mark.parametrize(
    ("source", "framework", "target", "interface"),
    [
        ("from flask import Flask\napp = Flask(__name__)", "Flask", "m:app", "wsgi"),
        ("import flask as f\nsite: f.Flask = f.Flask(__name__)", "Flask", "m:site", "wsgi"),
        ("from fastapi import FastAPI as F\napi = F()", "FastAPI", "m:api", "asgi"),
        ("import fastapi\nif True:\n    app = fastapi.FastAPI()", "FastAPI", "m:app", "asgi"),
        ("from starlette.applications import Starlette\napp = Starlette()", "Starlette", "m:app", "asgi"),
        ("import falcon.asgi\napp = falcon.asgi.App()", "Falcon", "m:app", "asgi"),
        ("import falcon\napp = falcon.App()", "Falcon", "m:app", "wsgi"),
        ("def application(environ, start_response):\n    pass", "WSGI", "m:application", "wsgi"),
        ("async def app(scope, receive, send):\n    pass", "ASGI", "m:app", "asgi"),
        ("async def app(scope: dict[str, int], receive: X, send: Y) -> None:\n    pass", "ASGI", "m:app", "asgi"),
    ],
)
def test_constructors(tmp_path: Path, source: str, framework: str, target: str, interface: str) -> None:
    write(tmp_path, m=source)
    found = best(tmp_path)
    assert (found.framework, found.target, found.interface, found.factory) == (framework, target, interface, False)


@pytest.mark.parametrize(
    "source",
    [
        "app = Flask(__name__)",  # not flask's
        "from flask import Flask\nif __name__ == '__main__':\n    app = Flask(__name__)",
        "from flask import Flask\ndef make(config):\n    return Flask(__name__)",
        "from flask import Flask\ndef _make():\n    return Flask(__name__)",
        "from flask import Flask\ndef make(*, config):\n    return Flask(__name__)",
        "app = Flask(",
        "",
    ],
)
def test_no_application(tmp_path: Path, source: str) -> None:
    write(tmp_path, m=source)
    assert discover(tmp_path).candidates == ()


def test_nothing_is_imported(tmp_path: Path) -> None:
    write(tmp_path, m="raise SystemExit('imported')\nfrom flask import Flask\napp = Flask(__name__)")
    assert best(tmp_path).target == "m:app"
    assert "m" not in sys.modules


def test_factory(tmp_path: Path) -> None:
    write(
        tmp_path,
        site___init="",
        site_____init__="from flask import Flask\ndef create_app(c=None):\n    return Flask('x')",
    )
    found = best(tmp_path)
    assert (found.target, found.factory) == ("site:create_app", True)


def test_an_application_made_by_a_factory_is_likelier(tmp_path: Path) -> None:
    write(
        tmp_path,
        pkg_____init__="from flask import Flask\ndef create_app():\n    return Flask('x')",
        wsgi="from pkg import create_app\napplication = create_app()",
    )
    first, second = discover(tmp_path).candidates
    assert (first.target, first.framework, first.factory) == ("wsgi:application", "Flask", False)
    assert (second.target, second.factory) == ("pkg:create_app", True)


def test_tests_environments_and_tools_are_left_out(tmp_path: Path) -> None:
    flask = "from flask import Flask\napp = Flask('x')"
    write(
        tmp_path, tests___app=flask, node_modules___app=flask, myenv___lib___app=flask, test_app=flask, conftest=flask
    )
    (tmp_path / "myenv/pyvenv.cfg").touch()
    assert discover(tmp_path).candidates == ()


def test_likelier_ones_come_first(tmp_path: Path) -> None:
    flask = "from flask import Flask\n"
    write(
        tmp_path,
        zz=flask + "app = Flask('x')",
        main=flask + "app = Flask('x')\nother = Flask('y')",
        examples___main=flask + "app = Flask('x')",
        deep___main=flask + "app = Flask('x')",
    )
    targets = [candidate.target for candidate in discover(tmp_path).candidates]
    assert targets == ["main:app", "zz:app", "deep.main:app", "main:other", "examples.main:app"]


def test_src_layout(tmp_path: Path) -> None:
    write(tmp_path, src___pkg___api="from fastapi import FastAPI\napp = FastAPI()")
    found = best(tmp_path)
    assert (found.target, found.pythonpath, found.chdir) == ("pkg.api:app", ("src",), ".")


def test_a_folder_that_is_no_package_is_the_working_folder(tmp_path: Path) -> None:
    write(tmp_path, backend___main="from fastapi import FastAPI\nimport models\napp = FastAPI()", backend___models="")
    found = best(tmp_path)
    assert (found.target, found.chdir) == ("main:app", "backend")


@pytest.mark.parametrize(
    ("source", "path"),
    [
        ("@app.get('/')\ndef a(): ...\n@app.get('/healthz')\ndef b(): ...", "/healthz"),
        ("@app.route('/x')\ndef a(): ...\n@app.route('/api/health/')\ndef b(): ...", "/api/health/"),
        ("@app.get('/items/{id}')\ndef a(): ...\n@app.get('/')\ndef b(): ...", "/"),
        ("@app.get('/items')\ndef a(): ...", "/items"),
        ("@app.post('/health')\ndef a(): ...\n@app.get('/a')\ndef b(): ...", "/a"),
        ("@app.route('/health', methods=['POST'])\ndef a(): ...\n@app.get('/a')\ndef b(): ...", "/a"),
        ("@router.get('/health')\ndef a(): ...", "/openapi.json"),
        ("app.add_api_route('/ping', x)", "/ping"),
    ],
)
def test_health_path(tmp_path: Path, source: str, path: str) -> None:
    write(tmp_path, m="from fastapi import FastAPI\napp = FastAPI()\n" + source)
    assert best(tmp_path).health.path == path


def test_health_of_an_application_that_shows_no_route(tmp_path: Path) -> None:
    write(tmp_path, m="from flask import Flask\napp = Flask('x')")
    assert (best(tmp_path).health.path, best(tmp_path).health.status) == ("/", "200-499")
    write(tmp_path, m="from fastapi import FastAPI\napp = FastAPI(openapi_url=None)")
    assert best(tmp_path).health.path == "/"


def test_routes_of_starlette(tmp_path: Path) -> None:
    source = "app = Starlette(routes=[Route('/', home), Route('/readyz', ready)])"
    write(tmp_path, m="from starlette.applications import Starlette\n" + source)
    assert best(tmp_path).health.path == "/readyz"


def test_static_folders_that_exist(tmp_path: Path) -> None:
    write(
        tmp_path,
        m="from fastapi import FastAPI\nfrom pathlib import Path\nHERE = Path(__file__).parent\napp = FastAPI()\n"
        "app.mount('/static', StaticFiles(directory=HERE / 'public'), name='static')\n"
        "app.mount('/gone', StaticFiles(directory='gone'))\n"
        "app.mount('/html', StaticFiles(directory='public', html=True))",
    )
    (tmp_path / "public").mkdir()
    assert [(item.prefix, item.folder) for item in best(tmp_path).static] == [("/static", "public")]


def test_static_folder_of_flask(tmp_path: Path) -> None:
    write(tmp_path, pkg_____init__="from flask import Flask\napp = Flask(__name__)")
    assert best(tmp_path).static == ()
    (tmp_path / "pkg/static").mkdir()
    assert [(item.prefix, item.folder) for item in best(tmp_path).static] == [("/static", "pkg/static")]


MANAGE = "import os\ndef main():\n    os.environ.setdefault('DJANGO_SETTINGS_MODULE', 'site1.{}')\n"


def test_a_stock_django_project(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-m", "django", "startproject", "mysite", str(tmp_path)], check=True)
    first, second = discover(tmp_path).candidates
    assert (first.framework, first.target, first.interface) == ("Django", "mysite.wsgi:application", "wsgi")
    assert (second.target, second.interface) == ("mysite.asgi:application", "asgi")
    assert first.health.path == "/admin/login/"
    assert first.before[0] == ("{python}", "manage.py", "migrate", "--noinput")


def test_django_settings_are_read_through_star_imports(tmp_path: Path) -> None:
    root = tmp_path / "backend"
    write(
        root,
        manage=MANAGE.format("settings.production"),
        site1_____init__="",
        site1___settings_____init__="",
        site1___settings___base="from pathlib import Path\nBASE_DIR = Path(__file__).resolve().parent.parent.parent\n"
        "STATIC_URL = 'assets/'\nROOT_URLCONF = 'site1.urls'\nDEBUG = True\n"
        "ASGI_APPLICATION = 'site1.routing.application'\n",
        site1___settings___production="from .base import *\nDEBUG = False\nSTATIC_ROOT = BASE_DIR / 'collected'\n"
        "ALLOWED_HOSTS = ['.example.org']",
        site1___routing="application = x()",
        site1___wsgi="from django.core.wsgi import get_wsgi_application\napplication = get_wsgi_application()",
        site1___urls="urlpatterns = [path('', home), path('health/', health)]",
    )
    first, second = discover(tmp_path).candidates
    assert (first.target, first.interface, first.chdir) == ("site1.routing:application", "asgi", "backend")
    assert second.target == "site1.wsgi:application"
    assert (first.health.path, first.health.host) == ("/health/", "example.org")
    (static,) = first.static
    assert (static.prefix, static.folder, static.exists) == ("/assets", "backend/collected", False)
    assert first.notes == ()


def test_old_style_paths_in_django_settings(tmp_path: Path) -> None:
    write(
        tmp_path,
        manage=MANAGE.format("settings"),
        site1___settings="import os\nBASE = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))\n"
        "STATIC_URL = '/static/'\nSTATIC_ROOT = os.path.join(BASE, 'static')\n",
        site1___wsgi="application = 1",
    )
    (tmp_path / "static").mkdir()
    (static,) = best(tmp_path).static
    assert (static.prefix, static.folder, static.exists) == ("/static", "static", True)


def test_name(tmp_path: Path) -> None:
    folder = tmp_path / "My Site (2)"
    folder.mkdir()
    assert discover(folder).name == "My-Site-2"
    (folder / "pyproject.toml").write_text("[project]\nname = 'my.site'\n")
    assert discover(folder).name == "my-site"
    (folder / "pyproject.toml").write_text("[project]\nname = ")
    assert discover(folder).name == "My-Site-2"


@pytest.mark.parametrize("kind", ["nothing", "flask", "factory", "src", "django", "quotes"])
def test_what_is_written_loads(project: Path, kind: str) -> None:
    flask = "from flask import Flask\n"
    if kind == "flask":
        write(project, m=flask + "app = Flask('x')\nother = Flask('y')")
        (project / "static").mkdir()
    elif kind == "factory":
        write(project, m=flask + "def make():\n    return Flask('x')")
    elif kind == "src":
        write(project, src___p___m=flask + "app = Flask('x')")
    elif kind == "django":
        write(
            project,
            sub___manage=MANAGE.format("settings"),
            sub___site1___wsgi="",
            sub___site1___settings="STATIC_URL = 's/'\nSTATIC_ROOT = 'r'",
        )
    elif kind == "quotes":
        write(project, m=flask + "app = Flask('x')\n@app.get('/hea\"l\\\\th')\ndef x(): ...")
    found = discover(project)
    chosen = found.candidates[0] if found.candidates else None
    text = render(found, chosen)
    (project / "instar.toml").write_text(text)
    config = load(None)
    assert config.app.target == (chosen.target if chosen else "mymodule:app")
    assert config.app.factory is (kind == "factory")
    assert config.health.path == (chosen.health.path if chosen else "/")
    assert config.warnings() == ()
    _uncommented_is_valid(text, project)


def _uncommented_is_valid(text: str, project: Path) -> None:
    """Each commented-out setting must work when somebody takes the `# ` away."""
    seen: list[str] = []
    for line in text.splitlines():
        body = line.removeprefix("# ")
        is_setting = line.startswith("# ") and (body.startswith(("[", "  [", "]")) or " = " in body.partition("#")[0])
        plain = body if is_setting and not body.startswith(("or:", "More")) else line
        seen.append(plain)
    raw = "\n".join(seen)
    tomllib.loads(raw)
    (project / "instar.toml").write_text(
        raw.replace('interface = "asgi"\n', "", 1) if raw.count("\ninterface") > 1 else raw
    )
    load(None)
