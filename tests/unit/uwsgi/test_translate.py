"""What the recipe's own files mean."""

from __future__ import annotations

from pathlib import Path

import pytest

from instar.config.formats.uwsgi import Surroundings, read
from instar.uwsgi.model import Farm, Hook, Instance, Router, ZergPool
from instar.uwsgi.translate import translate

RECIPE = Path(__file__).parents[1] / "uwsgi_config/fixtures"


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """The recipe's files where their paths lead."""
    for name in ("config", "vassals", "var/zerg", "server/lib"):
        (tmp_path / name).mkdir(parents=True)
    for file in RECIPE.iterdir():
        folder = "vassals" if file.name.startswith("vassal") else "config"
        (tmp_path / folder / file.name).write_text(file.read_text().replace("/srv/galaxy", str(tmp_path)))
    return tmp_path


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
